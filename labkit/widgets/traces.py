"""A line of ITL over time that never holds more than so many points, and loses no peak."""

from collections import deque

Point = tuple[float, float]
"""Seconds since the start, and ms."""


class Trace:
    """The last `window_s` seconds of one stream's waits in at most `most` points.

    The window is cut into slices; of the waits in a slice only the shortest and the longest stay, so a lump
    of tokens still shows as a peak and a zero. Not thread-safe: the widget that owns it calls it under its
    lock.
    """

    def __init__(self, window_s: float, most: int = 600) -> None:
        self._slice_s = 2 * window_s / (most - 2)
        self._closed: deque[Point] = deque(maxlen=most - 2)
        self._slice = 0
        self._open: list[Point] = []

    def push(self, at_s: float, ms: float) -> None:
        """One wait of `ms` that ended at `at_s`."""
        of_slice = int(at_s // self._slice_s)
        if of_slice != self._slice:
            self._closed.extend(self._open)
            self._open, self._slice = [], of_slice
        self._open.append((at_s, ms))
        if len(self._open) > 2:
            self._open.remove(sorted(self._open, key=_ms)[1])

    def points(self) -> list[Point]:
        """What is kept, in the order of arrival."""
        return [*self._closed, *self._open]


def _ms(point: Point) -> float:
    return point[1]
