"""Flush policies: when the tokens that wait at a server are written out together.

A policy groups writes and never merges events: n tokens in one write are still n events with n ids.
Policies have a text form, used by the command line, the knobs and the subprocess alike:
`token`, `tokens:N` (N tokens a write), `ms:T` (what T milliseconds brought).
"""

from dataclasses import dataclass
from math import inf
from typing import Protocol

from labkit.errors import InvalidRequest

MAX_GROUP = 512
MAX_MS = 10_000.0


class FlushPolicy(Protocol):
    """Decides, each time a token arrives or a wait is over, whether the group is due."""

    def wait_s(self, pending: int, age_s: float) -> float:
        """Seconds until a group must be written; 0: now, `inf`: not before more tokens come.

        Args:
            pending: tokens in the group, at least 1.
            age_s: seconds since the first of them was taken.
        """


@dataclass(frozen=True)
class EveryToken:
    """Write each token as it comes: the lowest latency, the most writes."""

    def wait_s(self, pending: int, age_s: float) -> float:
        return 0.0

    def __str__(self) -> str:
        return "token"


@dataclass(frozen=True)
class EveryN:
    """Write when `n` tokens have gathered."""

    n: int

    def wait_s(self, pending: int, age_s: float) -> float:
        return 0.0 if pending >= self.n else inf

    def __str__(self) -> str:
        return f"tokens:{self.n}"


@dataclass(frozen=True)
class EveryMs:
    """Write what has gathered `ms` milliseconds after the first token of the group."""

    ms: float

    def wait_s(self, pending: int, age_s: float) -> float:
        return 0.0 if pending >= MAX_GROUP else max(0.0, self.ms / 1e3 - age_s)

    def __str__(self) -> str:
        return f"ms:{self.ms:g}"


def parse_policy(text: str) -> FlushPolicy:
    """The policy that a text form names.

    Raises:
        InvalidRequest: the text is no policy, or its number is out of range.
    """
    kind, _, number = text.partition(":")
    try:
        if kind == "token" and not number:
            return EveryToken()
        if kind == "tokens" and 1 <= int(number) <= MAX_GROUP:
            return EveryN(int(number))
        if kind == "ms" and 0 < float(number) <= MAX_MS:
            return EveryMs(float(number))
    except ValueError:
        pass
    raise InvalidRequest(
        f"flush policy {text!r}: use token, tokens:N (1 to {MAX_GROUP}) or ms:T (up to {MAX_MS:g})"
    )
