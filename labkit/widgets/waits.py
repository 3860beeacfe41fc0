"""What a latency plot shows, without a widget: each stream's waits, those that go on, and turned knobs."""

from math import ceil
from typing import Literal

from labkit.widgets.lines import PeakLine, Point
from labkit.widgets.palette import tick_above

GROWTH = 4
"""How many times as long as at first the axis may become before it moves on."""
MOST_POINTS = 1_200
LEAST_TOP_MS = 20.0
LONG_MS = 250.0
"""A wait that goes on shows from here on; shorter ones would flicker."""
MOST_TURNS = 12
ONE_TURN_S = 0.6
"""A slider that is drawn over several positions is turned once."""

Event = tuple[Literal["start", "push", "finish"], int, int, float] | tuple[Literal["turn"], str, int]
"""What happened: to the stream at which place, when (ns), the wait (ms); or a knob's position, and when."""


class Waits:
    """The waits of `count` streams over time, in seconds since the first request or token.

    Its axis begins with `window_s` seconds, grows with the run to four times as many, and then moves on.

    Raises:
        ValueError: a window that is not positive.
    """

    def __init__(self, count: int, window_s: float) -> None:
        if not window_s > 0:
            raise ValueError(f"window_s must be positive, not {window_s}")
        self._count = count
        self._window_s = float(window_s)
        self.reset()

    def reset(self) -> None:
        """Become empty."""
        self._peaks = [PeakLine(GROWTH * self._window_s, MOST_POINTS) for _ in range(self._count)]
        self._begun: set[int] = set()
        self._start_ns: int | None = None
        self._newest_s = 0.0
        self.top_ms = LEAST_TOP_MS
        self.open: dict[int, int] = {}
        """Since when (ns) the reader of the stream at a place waits."""
        self.turns: list[tuple[float, str]] = []

    def take(self, event: Event | None) -> None:
        """Apply the next event; None makes it empty."""
        match event:
            case None:
                self.reset()
            case ("turn", text, at_ns):
                self._turn(str(text), self._since_start(at_ns))
            case ("start", place, at_ns, _):
                self._since_start(at_ns)
                self.open[place] = at_ns
            case ("push", place, at_ns, waited_ms):
                self._push(place, self._since_start(at_ns), waited_ms)
                if place in self.open:
                    self.open[place] = at_ns
            case ("finish", place, at_ns, _):
                since_ns = self.open.pop(place, at_ns)
                if (waited_ms := (at_ns - since_ns) / 1e6) >= LONG_MS:  # nothing came: the wait stays in view
                    self._push(place, self._since_start(at_ns), waited_ms)

    def lines(self, now_ns: int) -> list[list[Point]]:
        """Return each stream's (seconds, ms), with the wait that goes on at `now_ns` if it is a long one."""
        lines = [line.points() for line in self._peaks]
        for place, since_ns in self.open.items():
            waited_ms = (now_ns - since_ns) / 1e6
            if waited_ms < LONG_MS:
                continue
            now_s = self._since_start(now_ns)
            self._reach(now_s, waited_ms)
            if place not in self._begun:
                lines[place].append((self._since_start(since_ns), waited_ms))
            lines[place].append((now_s, waited_ms))
        return lines

    def span_s(self) -> tuple[float, float]:
        """Return the seconds at which the axis begins and ends."""
        half_s = self._window_s / 2
        most_s = GROWTH * self._window_s
        if self._newest_s > most_s:
            return self._newest_s - most_s, self._newest_s
        return 0.0, max(self._window_s, ceil(self._newest_s / half_s) * half_s)

    def _since_start(self, at_ns: int) -> float:
        if self._start_ns is None:
            self._start_ns = at_ns
        return (at_ns - self._start_ns) / 1e9

    def _push(self, place: int, at_s: float, waited_ms: float) -> None:
        if place not in self._begun:
            self._begun.add(place)
            if (sent_s := at_s - waited_ms / 1e3) >= 0 and waited_ms:
                self._peaks[place].push(sent_s, waited_ms)  # the line of the first wait begins here
        self._peaks[place].push(at_s, waited_ms)
        self._reach(at_s, waited_ms)

    def _reach(self, at_s: float, waited_ms: float) -> None:
        self._newest_s = max(self._newest_s, at_s)
        self.top_ms = max(self.top_ms, tick_above(waited_ms))

    def _turn(self, text: str, at_s: float) -> None:
        if self.turns and at_s - self.turns[-1][0] < ONE_TURN_S:
            at_s, _ = self.turns.pop()
        self.turns = [*self.turns, (at_s, text)][-MOST_TURNS:]
