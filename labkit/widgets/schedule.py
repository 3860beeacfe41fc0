"""What a scheduler did so far, as it is drawn: spans of states, KV held, queue, readers' buffers."""

import math
from collections import Counter, deque
from typing import Any

from labkit.engine.trace import Arrived, Iteration, Moved, Record, State
from labkit.widgets.buffer import Buffer
from labkit.widgets.states import ENDS, LOOKS
from labkit.widgets.traces import Point
from labkit.widgets.tracks import Track

KEEP_SPANS = 1_000
SLICES = 2_000
_SKEW_S = 1.0

Span = tuple[State, float, float]
"""A state, and from when to when a request was in it (seconds since the run's start)."""


def append_span(spans: deque[Span], span: Span) -> None:
    """Add `span`, or lengthen the last one if that has the same state and ends where this begins."""
    state, from_s, to_s = span
    if to_s <= from_s:
        return
    if spans and spans[-1][0] == state and spans[-1][2] == from_s:
        spans[-1] = (state, spans[-1][1], to_s)
    else:
        spans.append(span)


class Row:
    """One request: the state it is in, its newest 1,000 spans before that, and its reader's buffer."""

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
        """The request is in `state` from `at_s` on."""
        if state == self.state:
            return
        span = (self.state, self.since_s, at_s)
        append_span(self.spans, span)
        append_span(self._fresh, span)
        self.state, self.since_s = state, at_s

    def spans_until(self, now_s: float) -> list[Span]:
        """All spans, with the one that is still open up to `now_s`."""
        spans = self.spans.copy()
        if not self.ended:
            append_span(spans, (self.state, self.since_s, now_s))
        return list(spans)

    def unread_until(self, now_s: float) -> list[Point]:
        """The reader's unread tokens; the line ends when all is read, or the request is dropped."""
        return self.buffer.points(min(now_s, self.gone_s()) if self.ended else now_s)

    def gone_s(self) -> float:
        """From when on there is nothing to draw for a request that has ended."""
        return self.since_s if self.state == "dropped" else max(self.since_s, self.buffer.dry_s())

    def trim(self, before_s: float) -> None:
        """Let go of what ended before `before_s`."""
        while self.spans and self.spans[0][2] <= before_s:
            self.spans.popleft()
        self.buffer.track.trim(before_s)

    def snapshot(self) -> dict[str, Any]:
        """All that a page needs to draw the row from nothing."""
        return {**self._head(), "spans": _short(self.spans), "buffer": self.buffer.track.snapshot()}

    def delta(self) -> dict[str, Any]:
        """What came since the last delta."""
        delta = {**self._head(), "spans": _short(self._fresh), "buffer": self.buffer.track.delta()}
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


class Schedule:
    """What the records of a run say, as far as it is drawn; times are seconds since its first record.

    The last `window_s` seconds are kept and at most `most_rows` requests. `folded` counts those let go: they
    have left the window, or were the earliest of too many. A record more than a second older than the last
    iteration's start, or the arrival of a request that is there already, begins a new run. A request whose
    arrival was not seen is named by its number. Not thread-safe: the widget that owns it calls it under its
    lock.

    Raises:
        ValueError: a window or a number of rows that is not positive.
    """

    def __init__(self, window_s: float, most_rows: int = 64) -> None:
        if not window_s > 0:
            raise ValueError(f"window_s must be positive, not {window_s}")
        if most_rows < 1:
            raise ValueError(f"most_rows must be 1 or more, not {most_rows}")
        self.window_s = float(window_s)
        self.most_rows = most_rows
        self.reset()

    def reset(self) -> None:
        """Back to empty."""
        self.start_s: float | None = None
        self._floor_s = -math.inf
        self.now_s = 0.0
        self.rows: dict[int, Row] = {}
        self.kv = Track(self.window_s, SLICES)
        self.queue = Track(self.window_s, SLICES)
        self.running = self.waiting = self.kv_tokens = 0
        self.seen = self.folded = 0
        self.kv_peak = self.queue_peak = 0
        self.unread_peak = 0.0
        self.moves: Counter[State] = Counter()
        self._live: dict[int, State] = {}
        self._trimmed_s = 0.0
        self._changed: dict[int, None] = {}
        self._gone: list[int] = []
        self._emptied = True

    def put(self, record: Record) -> None:
        """Take the next record."""
        if self._begins_anew(record):
            self.reset()
        if self.start_s is None:
            self.start_s = record.start_s if isinstance(record, Iteration) else record.at_s
        stamp_s = clock_s(record) - self.start_s
        # Records of several threads may overtake each other by a little.
        at_s = self.now_s = max(self.now_s, stamp_s)
        if isinstance(record, Iteration):
            self._iterated(record, at_s)
        elif isinstance(record, Moved):
            self._moved(record.request, record.state, at_s)
        else:
            # Who comes during an iteration is told of after it, with the time of the arrival.
            self._add(record.request, record.name, record.reader_tps, max(0.0, stamp_s))
        if at_s - self._trimmed_s > self.window_s / 20:
            self._trim(at_s)

    def snapshot(self) -> dict[str, Any]:
        """All that a page needs to draw the schedule from nothing."""
        rows = [[number, row.snapshot()] for number, row in self.rows.items()]
        return {**self._head(), "reset": True, "gone": [], "rows": rows, "kv": self.kv.snapshot()}

    def delta(self) -> dict[str, Any]:
        """What came since the last delta."""
        rows = [[number, self.rows[number].delta()] for number in self._changed]
        delta = {
            **self._head(),
            "reset": self._emptied,
            "gone": self._gone,
            "rows": rows,
            "kv": self.kv.delta(),
        }
        self._changed, self._gone, self._emptied = {}, [], False
        return delta

    def words(self) -> str:
        """The run in words and figures, for who cannot see it."""
        if self.start_s is None:
            return "Nothing has been scheduled yet."
        moves = self.moves
        return (
            f"{self.seen} requests over {self.now_s:.1f} s: {moves['finished']} finished, "
            f"{moves['dropped']} dropped; {moves['paused']} times one was paused, {moves['evicted']} times "
            f"evicted, {moves['swapped']} times swapped out. "
            f"KV held: up to {self.kv_peak:,} tokens. Waiting: up to {self.queue_peak} at once. "
            f"Unread by one reader: up to {self.unread_peak:.0f} tokens."
        )

    def _begins_anew(self, record: Record) -> bool:
        if self.start_s is None:
            return False
        if isinstance(record, Arrived) and (record.request in self.rows or record.request in self._live):
            return True
        return clock_s(record) < self._floor_s - _SKEW_S

    def _add(self, number: int, name: str, reader_tps: float, at_s: float) -> Row:
        while len(self.rows) >= self.most_rows:
            ended = (old for old, row in self.rows.items() if row.ended)
            self._fold(next(ended, next(iter(self.rows))))
        row = self.rows[number] = Row(name, self.seen, at_s, Buffer(reader_tps, self.window_s))
        self.seen += 1
        self._live[number] = row.state
        self._changed[number] = None
        return row

    def _moved(self, number: int, state: State, at_s: float) -> None:
        self.moves[state] += 1
        row = self.rows.get(number)
        if row is None and number not in self._live:
            row = self._add(number, f"request {number}", 0.0, at_s)
        if row is not None:
            row.move(state, at_s)
            self._changed[number] = None
        if state in ENDS:
            self._live.pop(number, None)
        else:
            self._live[number] = state
        if not any(LOOKS[each].tall for each in self._live.values()):
            # No iteration will tell that the last one gave back its KV.
            self.running = self.kv_tokens = 0
            self.kv.push(at_s, 0)

    def _iterated(self, iteration: Iteration, at_s: float) -> None:
        self.running, self.waiting, self.kv_tokens = iteration.running, iteration.waiting, iteration.kv_tokens
        self._floor_s = iteration.start_s
        self.kv_peak = max(self.kv_peak, iteration.kv_tokens)
        self.queue_peak = max(self.queue_peak, iteration.waiting)
        self.kv.push(at_s, iteration.kv_tokens)
        self.queue.push(at_s, iteration.waiting)
        for number in iteration.emitted:
            row = self.rows.get(number)
            if row:
                row.buffer.emit(at_s)
                self.unread_peak = max(self.unread_peak, row.buffer.peak)
                self._changed[number] = None

    def _trim(self, now_s: float) -> None:
        self._trimmed_s = now_s
        before_s = now_s - self.window_s
        for number, row in list(self.rows.items()):
            row.trim(before_s)
            if row.ended and row.gone_s() <= before_s:
                self._fold(number)
        self.kv.trim(before_s)
        self.queue.trim(before_s)

    def _fold(self, number: int) -> None:
        del self.rows[number]
        self._changed.pop(number, None)
        self._gone.append(number)
        self.folded += 1

    def _head(self) -> dict[str, Any]:
        figures = {"running": self.running, "waiting": self.waiting, "kv": self.kv_tokens}
        now = round(self.now_s, 4)
        return {"now": now, "folded": self.folded, "figures": figures, "words": self.words()}


def clock_s(record: Record) -> float:
    """When a record was made, on the clock that ran it: of an iteration its end."""
    return record.end_s if isinstance(record, Iteration) else record.at_s


def _short(spans: deque[Span]) -> list[Span]:
    return [(state, round(from_s, 4), round(to_s, 4)) for state, from_s, to_s in spans]
