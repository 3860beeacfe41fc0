"""One request's row in a schedule: the states it was in, and its reader's buffer."""

from collections import deque
from typing import Any

from labkit.engine.trace import State
from labkit.widgets.buffer import Buffer
from labkit.widgets.lines import Point
from labkit.widgets.states import ENDS

KEEP_SPANS = 1_000

Span = tuple[State, float, float]
"""A state, and the beginning and end of a request's time in it (seconds since the start of the run)."""


def append_span(spans: deque[Span], span: Span) -> None:
    """Add `span`, or lengthen the last span if it has the same state and ends where this one begins."""
    state, from_s, to_s = span
    if to_s <= from_s:
        return
    if spans and spans[-1][0] == state and spans[-1][2] == from_s:
        spans[-1] = (state, spans[-1][1], to_s)
    else:
        spans.append(span)


class RequestRow:
    """The state that a request is in, its newest 1,000 spans before that, and its reader's buffer."""

    def __init__(self, name: str, place: int, at_s: float, buffer: Buffer) -> None:
        self.name = name
        self.place = place
        self.buffer = buffer
        self.state: State = "waiting"
        self.since_s = at_s
        self.spans: deque[Span] = deque(maxlen=KEEP_SPANS)
        self._fresh: deque[Span] = deque(maxlen=KEEP_SPANS)

    @property
    def ended(self) -> bool:
        """Whether the request has finished or was dropped."""
        return self.state in ENDS

    def move(self, state: State, at_s: float) -> None:
        """Put the request into `state` from `at_s` on."""
        if state == self.state:
            return
        span = (self.state, self.since_s, at_s)
        append_span(self.spans, span)
        append_span(self._fresh, span)
        self.state, self.since_s = state, at_s

    def spans_until(self, now_s: float) -> list[Span]:
        """Return all spans; the one that is still open ends at `now_s`."""
        spans = self.spans.copy()
        if not self.ended:
            append_span(spans, (self.state, self.since_s, now_s))
        return list(spans)

    def unread_until(self, now_s: float) -> list[Point]:
        """Return the line of unread tokens; it ends when all are read, or when the request is dropped."""
        return self.buffer.points(min(now_s, self.gone_s()) if self.ended else now_s)

    def gone_s(self) -> float:
        """Return the time after which nothing is drawn for a request that has ended."""
        return self.since_s if self.state == "dropped" else max(self.since_s, self.buffer.dry_s())

    def trim(self, before_s: float) -> None:
        """Drop what ended before `before_s`."""
        while self.spans and self.spans[0][2] <= before_s:
            self.spans.popleft()
        self.buffer.line.trim(before_s)

    def snapshot(self) -> dict[str, Any]:
        """Return all that a page needs to draw the row from nothing."""
        return {**self._head(), "spans": _short(self.spans), "buffer": self.buffer.line.snapshot()}

    def delta(self) -> dict[str, Any]:
        """Return what came since the last delta."""
        delta = {**self._head(), "spans": _short(self._fresh), "buffer": self.buffer.line.delta()}
        self._fresh.clear()
        return delta

    def _head(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "place": self.place,
            "state": self.state,
            "since": round(self.since_s, 4),
            "ended": self.ended,
            "reader_tps": self.buffer.reader_tps,
        }


def _short(spans: deque[Span]) -> list[Span]:
    return [(state, round(from_s, 4), round(to_s, 4)) for state, from_s, to_s in spans]
