"""Lines over time in a bounded number of points that lose no peak: waits, KV held, unread tokens."""

from collections import deque
from collections.abc import Iterable
from operator import itemgetter
from typing import Any

Point = tuple[float, float]
"""Seconds since the start, and a value."""

_value = itemgetter(1)


class _Line:
    """The last `window_s` seconds of a value. The window is cut into slices, each with at most `most` points.

    A subclass chooses which points of a slice stay. A line is not thread-safe.
    """

    def __init__(self, window_s: float, slices: int, most: int) -> None:
        self._slice_s = window_s / slices
        self._most = most
        self._slice = 0
        self._closed: deque[Point] = deque(maxlen=most * slices)
        self._open: list[Point] = []

    def push(self, at_s: float, value: float) -> None:
        """Add a point, not earlier than the last one."""
        number = int(at_s / self._slice_s)
        if number != self._slice:
            self._close()
            self._slice, self._open = number, []
        self._open.append((at_s, value))
        if len(self._open) > self._most:
            self._open = self._thinned()

    def points(self) -> list[Point]:
        """Return the points that are kept, in the order of time."""
        return [*self._closed, *self._open]

    def _close(self) -> None:
        self._closed += self._open

    def _thinned(self) -> list[Point]:
        raise NotImplementedError


class PeakLine(_Line):
    """The waits of one stream: each point is a wait in ms and when it ended.

    The shortest and the longest wait of a slice stay, so a lump of tokens still shows as a peak and a zero.
    """

    def __init__(self, window_s: float, most: int = 600) -> None:
        super().__init__(window_s, slices=(most - 2) // 2, most=2)

    def _thinned(self) -> list[Point]:
        middle = sorted(self._open, key=_value)[1]
        return [point for point in self._open if point is not middle]


class StepLine(_Line):
    """A value that holds until the next point: KV held, queue length, a reader's unread tokens.

    The lowest, the highest and the last point of a slice stay, so the line ends where the value stands.
    """

    def __init__(self, window_s: float, slices: int) -> None:
        super().__init__(window_s, slices, most=3)
        self._fresh: deque[Point] = deque(maxlen=3 * slices)

    @property
    def last(self) -> Point | None:
        """The newest point."""
        return self._open[-1] if self._open else None

    def trim(self, before_s: float) -> None:
        """Drop what a window that begins at `before_s` does not need."""
        while len(self._closed) > 1 and self._closed[1][0] <= before_s:
            self._closed.popleft()

    def snapshot(self) -> dict[str, Any]:
        """Return all points as a page takes them: `closed` are final, `open` are sent again."""
        return {"closed": _short(self._closed), "open": _short(self._open)}

    def delta(self) -> dict[str, Any]:
        """Return the points that became final since the last delta, and the open slice."""
        delta = {"closed": _short(self._fresh), "open": _short(self._open)}
        self._fresh.clear()
        return delta

    def _close(self) -> None:
        super()._close()
        self._fresh += self._open

    def _thinned(self) -> list[Point]:
        stay = (min(self._open, key=_value), max(self._open, key=_value), self._open[-1])
        return [point for point in self._open if any(point is one for one in stay)]


def _short(points: Iterable[Point]) -> list[Point]:
    """Round to 0.1 ms and 0.1 of a token: what a page can show, in half the bytes."""
    return [(round(at_s, 4), round(value, 1)) for at_s, value in points]
