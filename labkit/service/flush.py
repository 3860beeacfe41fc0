"""Flush policies: when a server writes the pieces that wait, and how many together.

A policy groups writes and never merges events: n pieces in one write are still n events with n ids.
Policies have a text form, which the command line, the knobs and the subprocess use alike:
`token` (each piece), `tokens:N` (N pieces a write), `ms:T` (what T milliseconds brought).
"""

from dataclasses import dataclass
from math import inf
from typing import Protocol

from labkit.errors import InvalidRequest

MAX_GROUP = 512
MAX_MS = 10_000.0


class FlushPolicy(Protocol):
    """Decides, each time a piece arrives or a wait is over, whether the group is due."""

    def wait_s(self, pending: int, age_s: float) -> float:
        """Seconds until a group must be written; 0: now, `inf`: not before more pieces come.

        Args:
            pending: pieces in the group, at least 1.
            age_s: seconds since the server took the first of them.
        """


@dataclass(frozen=True)
class EveryPiece:
    """Write each piece as it comes: the lowest latency, the most writes."""

    def wait_s(self, pending: int, age_s: float) -> float:
        return 0.0

    def __str__(self) -> str:
        return "token"


@dataclass(frozen=True)
class EveryN:
    """Write when `n` pieces have gathered."""

    n: int

    def wait_s(self, pending: int, age_s: float) -> float:
        return 0.0 if pending >= self.n else inf

    def __str__(self) -> str:
        return f"tokens:{self.n}"


@dataclass(frozen=True)
class EveryMs:
    """Write what has gathered `ms` milliseconds after the first piece of the group."""

    ms: float

    def wait_s(self, pending: int, age_s: float) -> float:
        return 0.0 if pending >= MAX_GROUP else max(0.0, self.ms / 1e3 - age_s)

    def __str__(self) -> str:
        return f"ms:{self.ms:g}"


class FlushKnob:
    """Holds the policy in force. Any thread may turn it while streams run."""

    def __init__(self, policy: FlushPolicy | None = None) -> None:
        self.turn(policy or EveryPiece())

    def turn(self, policy: FlushPolicy) -> None:
        self.policy = policy
        self.at_once = isinstance(policy, EveryPiece)  # spares the usual policy a call for each token


def parse_policy(text: str) -> FlushPolicy:
    """Build the policy that a text form names.

    Raises:
        InvalidRequest: the text is no policy, or its number is out of range.
    """
    kind, _, number = text.partition(":")
    try:
        if kind == "token" and not number:
            return EveryPiece()
        if kind == "tokens" and 1 <= int(number) <= MAX_GROUP:
            return EveryN(int(number))
        if kind == "ms" and 0 < float(number) <= MAX_MS:
            return EveryMs(float(number))
    except ValueError:
        pass
    raise InvalidRequest(
        f"flush policy {text!r}: use token, tokens:N (1 to {MAX_GROUP}) or ms:T (up to {MAX_MS:g})"
    )
