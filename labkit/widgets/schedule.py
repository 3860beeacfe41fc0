"""What a schedule view shows, without a widget: rows of states, KV held, queue, readers' buffers."""

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

from labkit.engine.trace import Arrived, Iteration, Moved, Record, State
from labkit.widgets.buffer import Buffer
from labkit.widgets.lines import StepLine
from labkit.widgets.request_row import RequestRow
from labkit.widgets.states import ENDS, LOOKS

SLICES = 2_000
MOST_TURNS = 12
_SKEW_S = 1.0


@dataclass(frozen=True)
class Turned:
    """A knob was turned at `at_s` on the run's clock; `text` says to what."""

    at_s: float
    text: str


class Schedule:
    """The last `window_s` seconds of a run, and at most `most_rows` of its requests.

    Times are seconds since the run's first record. `folded` counts the requests that were dropped from the
    rows, since they left the window or were the earliest of too many. A new run begins with a record that is
    more than a second older than the start of the last iteration, or with the arrival of a request that has
    a row already. A request whose arrival did not come is named by its number.

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
        """Become empty."""
        self.start_s: float | None = None
        self._floor_s = -math.inf
        self.now_s = 0.0
        self.rows: dict[int, RequestRow] = {}
        self.kv = StepLine(self.window_s, SLICES)
        self.running = self.waiting = self.kv_tokens = 0
        self.arrived = self.folded = 0
        self.kv_peak = self.queue_peak = 0
        self.unread_peak = 0.0
        self.turns: list[tuple[float, str]] = []
        self.moves: Counter[State] = Counter()
        self._live: dict[int, State] = {}
        self._trimmed_s = 0.0
        self._changed: dict[int, None] = {}
        self._gone: list[int] = []
        self._emptied = True

    def take(self, record: Record | Turned) -> None:
        """Apply the next record. A knob that is turned before the first one leaves no mark."""
        if isinstance(record, Turned):
            if self.start_s is not None:
                self.turns = [*self.turns, (record.at_s - self.start_s, record.text)][-MOST_TURNS:]
            return
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
            # The record of an arrival during an iteration comes after that iteration, with the earlier time.
            self._add(record.request, record.name, record.reader_tps, max(0.0, stamp_s))
        if at_s - self._trimmed_s > self.window_s / 20:
            self._trim(at_s)

    def snapshot(self) -> dict[str, Any]:
        """Return all that a page needs to draw the schedule from nothing."""
        rows = [[number, row.snapshot()] for number, row in self.rows.items()]
        return {**self._head(), "reset": True, "gone": [], "rows": rows, "kv": self.kv.snapshot()}

    def delta(self) -> dict[str, Any]:
        """Return what came since the last delta."""
        rows = [[number, self.rows[number].delta()] for number in self._changed]
        changes = {"reset": self._emptied, "gone": self._gone, "rows": rows, "kv": self.kv.delta()}
        self._changed, self._gone, self._emptied = {}, [], False
        return {**self._head(), **changes}

    def words(self) -> str:
        """Describe the run in words and figures, for people who cannot see it."""
        if self.start_s is None:
            return "Nothing has been scheduled yet."
        moves = self.moves
        return (
            f"{self.arrived} requests over {self.now_s:.1f} s: {moves['finished']} finished, "
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

    def _add(self, number: int, name: str, reader_tps: float, at_s: float) -> RequestRow:
        while len(self.rows) >= self.most_rows:
            ended = (old for old, row in self.rows.items() if row.ended)
            self._fold(next(ended, next(iter(self.rows))))
        row = self.rows[number] = RequestRow(name, self.arrived, at_s, Buffer(reader_tps, self.window_s))
        self.arrived += 1
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
            # No iteration follows to show that the last request gave back its KV.
            self.running = self.kv_tokens = 0
            self.kv.push(at_s, 0)

    def _iterated(self, iteration: Iteration, at_s: float) -> None:
        self.running, self.waiting, self.kv_tokens = iteration.running, iteration.waiting, iteration.kv_tokens
        self._floor_s = iteration.start_s
        self.kv_peak = max(self.kv_peak, iteration.kv_tokens)
        self.queue_peak = max(self.queue_peak, iteration.waiting)
        self.kv.push(at_s, iteration.kv_tokens)
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

    def _fold(self, number: int) -> None:
        del self.rows[number]
        self._changed.pop(number, None)
        self._gone.append(number)
        self.folded += 1

    def _head(self) -> dict[str, Any]:
        figures = {"running": self.running, "waiting": self.waiting, "kv": self.kv_tokens}
        now = round(self.now_s, 4)
        turns = [(round(at_s, 4), text) for at_s, text in self.turns]
        return {"now": now, "folded": self.folded, "figures": figures, "turns": turns, "words": self.words()}


def clock_s(record: Record | Turned) -> float:
    """Return when a record was made, on the clock of the run; for an iteration that is its end."""
    return record.end_s if isinstance(record, Iteration) else record.at_s
