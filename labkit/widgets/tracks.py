"""A line over time in a bounded number of points: KV held, queue length, a reader's unread tokens."""

from collections import deque
from collections.abc import Iterable
from typing import Any

from labkit.widgets.traces import Point


class Track:
    """The last `window_s` seconds of a value, in at most three points for each of so many slices of it.

    Of a slice's values the lowest, the highest and the last stay, so no peak is lost and the line ends where
    the value stands. Not thread-safe: the widget that owns it calls it under its lock.
    """

    def __init__(self, window_s: float, slices: int) -> None:
        self._slice_s = window_s / slices
        self._slice = -1
        self._closed: deque[Point] = deque(maxlen=3 * slices)
        self._fresh: deque[Point] = deque(maxlen=3 * slices)
        self._open: list[Point] = []

    def push(self, at_s: float, value: float) -> None:
        """The value from `at_s` on, which is not before the last one's."""
        of_slice = int(at_s / self._slice_s)
        if of_slice != self._slice:
            self._closed += self._open
            self._fresh += self._open
            self._slice, self._open = of_slice, []
        self._open.append((at_s, value))
        if len(self._open) > 3:
            kept = {id(min(self._open, key=_value)), id(max(self._open, key=_value)), id(self._open[-1])}
            self._open = [point for point in self._open if id(point) in kept]

    @property
    def last(self) -> Point | None:
        """The newest point."""
        return self._open[-1] if self._open else None

    def points(self) -> list[Point]:
        """What is kept, in the order of time."""
        return [*self._closed, *self._open]

    def trim(self, before_s: float) -> None:
        """Let go of what a window that begins at `before_s` does not need."""
        while len(self._closed) > 1 and self._closed[1][0] <= before_s:
            self._closed.popleft()

    def snapshot(self) -> dict[str, Any]:
        """All points, as a page takes them: `closed` are final, `open` will be sent anew."""
        return {"closed": _short(self._closed), "open": _short(self._open)}

    def delta(self) -> dict[str, Any]:
        """What became final since the last delta, and the open slice."""
        delta = {"closed": _short(self._fresh), "open": _short(self._open)}
        self._fresh.clear()
        return delta


def _value(point: Point) -> float:
    return point[1]


def _short(points: Iterable[Point]) -> list[Point]:
    """To 0.1 ms and 0.1 of a token: what a page can show, in half the bytes."""
    return [(round(at_s, 4), round(value, 1)) for at_s, value in points]
