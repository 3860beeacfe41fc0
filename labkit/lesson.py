"""What a chapter needs besides the lab: a table of figures, findings that assert, exercises that check."""

import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from types import EllipsisType
from typing import Any, TypeVar

from rich.table import Table
from websockets.protocol import State
from websockets.sync.client import connect

from labkit.client import Recording
from labkit.metrics import figures
from labkit.sim.timelines import Summary
from labkit.verdict import Outcome

T = TypeVar("T")

RUN_HEADINGS = ["tok/s", "effective", "TTFT p50", "p99", "ITL p99", "fluidity", "QoE", "stall", "preempted"]


@dataclass(frozen=True)
class Lines:
    """Text that a notebook shows as it is."""

    text: str

    def __repr__(self) -> str:
        return self.text


def figures_table(recordings: Mapping[str, Recording]) -> Table:
    """The figures of each recording, a row each, in milliseconds (the definitions are `labkit.metrics`'s)."""
    table = Table(title="ms, on the client's clock")
    table.add_column("")
    for heading in ("TTFT", "ITL p50", "ITL p99", "TPOT", "E2E", "tokens", "chunks"):
        table.add_column(heading, justify="right")
    for name, recording in recordings.items():
        f = figures(recording)
        times = (f.ttft_ms, f.itl_p50_ms, f.itl_p99_ms, f.tpot_ms, f.e2e_ms)
        shown = ["–" if ms is None else f"{ms:,.1f}" for ms in times]
        table.add_row(name, *shown, str(f.tokens), str(f.chunks))
    return table


def runs_table(runs: Mapping[str, Summary]) -> Table:
    """The figures of each run, a row each (the definitions are those of `labkit.sim.timelines.Summary`)."""
    table = Table(title="of all requests together; TTFT and stalls in s, ITL in ms")
    table.add_column("", no_wrap=True)
    for heading in RUN_HEADINGS:
        table.add_column(heading, justify="right")
    for name, run in runs.items():
        rates = (run.tokens_per_s, run.effective_tokens_per_s)
        shown = [f"{x:,.0f}" if x is not None else "–" for x in rates]
        waits = (run.ttft_p50_s, run.ttft_p99_s, run.itl_p99_ms, run.fluidity, run.qoe, run.stall_s)
        for value, digits in zip(waits, (2, 2, 0, 3, 3, 2), strict=True):
            shown.append("–" if value is None else f"{value:,.{digits}f}")
        table.add_row(name, *shown, f"{run.preemptions:,}")
    return table


def finding(claim: str, holds: bool) -> None:
    """State what was measured just now, or say that this run did not show it.

    Raises:
        AssertionError: it did not hold; run the measuring cell again, on a quieter machine if you can.
    """
    if not holds:
        raise AssertionError(f"not in this run: {claim}")
    print(f"✓ {claim}")


def settle(claim: str, outcome: Outcome) -> None:
    """State what `labkit.verdict` made of a claim; that this run does not settle it is an answer too.

    Raises:
        AssertionError: the claim fails in this run.
    """
    if outcome == "fails":
        raise AssertionError(f"refuted in this run: {claim}")
    print(f"{'✓' if outcome == 'holds' else '? not settled in this run:'} {claim}")


def check(answer: T | EllipsisType, conditions: Mapping[str, Callable[[T], bool]]) -> "Lines":
    """Check an exercise: the answer against each named condition; `...` is one that is not given yet."""
    if isinstance(answer, EllipsisType):
        return Lines("Put your answer in place of ... and run the cell again.")
    results = [_verdict(name, condition, answer) for name, condition in conditions.items()]
    lines = [line for _, line in results]
    solved = all(passed for passed, _ in results)
    return Lines("\n".join([*lines, "Solved." if solved else "Not yet: change it and run again."]))


def _verdict(name: str, condition: Callable[[T], bool], answer: T) -> tuple[bool, str]:
    try:
        passed, why = bool(condition(answer)), ""
    except Exception as error:  # a wrong answer, not a broken chapter
        passed, why = False, f"  ({type(error).__name__}: {error})"
    return passed, f"{'✓' if passed else '✗'} {name}{why}"


def guessed(guess: float | EllipsisType, measured: float, unit: str) -> None:
    """Hold a prediction against what was measured just now; `...` is one that was not made."""
    told = "You made no guess" if isinstance(guess, EllipsisType) else f"You guessed {guess:g} {unit}"
    print(f"{told}; just now it was {measured:,.4g} {unit}.")


class Messages:
    """A WebSocket on which a chapter sends and receives JSON by hand, without labkit's client."""

    def __init__(self, url: str) -> None:
        self._stack = ExitStack()
        self._socket = self._stack.enter_context(connect(url, compression=None, proxy=None))

    @property
    def open(self) -> bool:
        return self._socket.state is State.OPEN

    def send(self, message: Mapping[str, Any]) -> None:
        self._socket.send(json.dumps(message))

    def receive(self, count: int) -> list[dict[str, Any]]:
        """The next messages, at least `count`: a frame may bring several."""
        received: list[dict[str, Any]] = []
        while len(received) < count:
            frame = json.loads(self._socket.recv(timeout=30))
            received += frame if isinstance(frame, list) else [frame]
        return received

    def until_end(self, *request_ids: str) -> list[dict[str, Any]]:
        """The messages up to the last of these requests' terminal events."""
        waiting = set(request_ids)
        received: list[dict[str, Any]] = []
        while waiting:
            received += self.receive(1)
            waiting -= {m["request_id"] for m in received if m["type"] in ("finished", "failed")}
        return received

    def close(self) -> None:
        self._stack.close()


def chunk_sizes(recording: Recording) -> list[int]:
    """How many events each read brought."""
    return [len(chunk.events) for chunk in recording.chunks]


def lines(items: Iterable[object]) -> "Lines":
    """Show one item a line."""
    return Lines("\n".join(str(item) for item in items))
