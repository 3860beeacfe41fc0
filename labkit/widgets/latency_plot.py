"""LatencyPlot: each stream's inter-token latency (ITL) over time, drawn while it streams."""

import time
from collections.abc import Sequence

import bqplot
import numpy as np

from labkit.widgets import palette
from labkit.widgets.lines import PeakLine, Point
from labkit.widgets.pump import Inbox
from labkit.widgets.still.picture import Picture
from labkit.widgets.still.streams import picture

_SETTLED_S = 1.0
_LEAST_TOP_MS = 100
# bqplot's own colour for the axes' names is orange on a dark page; this grey is legible on both.
_SOFT = "#7d8590"

_Wait = tuple[int, int, float]
"""A stream's place, when a wait ended (ns), and how long it was (ms)."""


class LatencyPlot(bqplot.Figure):  # type: ignore[misc]
    """A line per stream of ITL in ms over the last `window_s` seconds. Any thread may feed it.

    The line of a wait is as long as the wait and at the height log10(1 + ms), so that 0 ms and 500 ms both
    show. The lines change once a beat of the pump; only the pump and `flush` set their traits.

    Args:
        streams: the lines' names, in the order of their colours.
        window_s: how many seconds the plot shows.
        height_px: the plot's height.

    Raises:
        ValueError: no streams, two of one name, or a window that is not positive.
    """

    def __init__(self, streams: Sequence[str], window_s: float = 10, height_px: int = 260) -> None:
        self._places = palette.stream_places(streams)
        if window_s <= 0:
            raise ValueError(f"window_s must be positive, not {window_s}")
        self.streams = tuple(streams)
        self.window_s = float(window_s)
        self._x_scale = bqplot.LinearScale(min=0.0, max=self.window_s)
        self._y_scale = bqplot.LinearScale(min=0.0)
        self._y_axis = bqplot.Axis(
            scale=self._y_scale,
            side="left",
            label="inter-token latency, ms",
            label_offset="3em",
            label_color=_SOFT,
        )
        self._lines = bqplot.Lines(
            scales={"x": self._x_scale, "y": self._y_scale},
            colors=_colours(streams),
            stroke_width=1.5,
            interpolation="step-before",
        )
        self._empty()
        self._scale()
        self._draw_lines()
        x_axis = bqplot.Axis(scale=self._x_scale, label="seconds", label_color=_SOFT, num_ticks=6)
        super().__init__(
            marks=[self._lines, _legend(streams)],
            axes=[x_axis, self._y_axis],
            fig_margin={"top": 12, "bottom": 44, "left": 58, "right": 110},
            display_toolbar=False,
        )
        self.layout.width, self.layout.height = "100%", f"{height_px}px"
        self._inbox: Inbox[_Wait | None] = Inbox(self._take)

    def push(self, stream: str, received_ns: int, itl_ms: float) -> None:
        """Show that a token took `itl_ms` and became readable at `received_ns`. O(1), from any thread.

        Raises:
            KeyError: no such stream.
        """
        self._inbox.put((self._places[stream], received_ns, itl_ms))

    def clear(self) -> None:
        """Empty the plot; the next token is at 0 s."""
        self._inbox.put(None)

    def flush(self) -> None:
        """Draw all waiting tokens, in the calling thread."""
        self._inbox.flush()

    def points(self) -> dict[str, list[Point]]:
        """Return by stream (seconds since the start, ITL in ms), at most 600 points of the last window."""
        self.flush()
        return {name: line.points() for name, line in zip(self.streams, self._peaks, strict=True)}

    def picture(self) -> Picture:
        """Draw what the plot shows, as a PNG for a page without a kernel."""
        return picture(plot=self)

    def __repr__(self) -> str:
        return f"LatencyPlot({', '.join(self.streams)})"

    def _empty(self) -> None:
        self._peaks = [PeakLine(self.window_s) for _ in self._places]
        self._start_ns: int | None = None
        self._newest_s = 0.0
        self._top_ms = float(_LEAST_TOP_MS)
        self._drawn_at = 0.0
        self._settled = True

    def _take(self, waits: list[_Wait | None]) -> bool:
        for wait in waits:
            if wait is None:
                self._empty()
            else:
                self._add(*wait)
        if waits:
            self._draw()
        elif not self._settled and time.monotonic() - self._drawn_at > _SETTLED_S:
            # Any message may be lost, so the last one is sent twice.
            self._settled = True
            self._lines.send_state(["x", "y"])
        return not self._settled

    def _add(self, place: int, received_ns: int, itl_ms: float) -> None:
        if self._start_ns is None:
            self._start_ns = received_ns
        at_s = (received_ns - self._start_ns) / 1e9
        self._newest_s = max(self._newest_s, at_s)
        self._top_ms = max(self._top_ms, palette.tick_above(itl_ms))
        self._peaks[place].push(at_s, itl_ms)

    def _draw(self) -> None:
        self._drawn_at = time.monotonic()
        self._settled = False
        self._scale()
        self._draw_lines()

    def _scale(self) -> None:
        top = palette.height_of(self._top_ms)
        if self._y_scale.max != top:
            ticks = palette.ticks_up_to(self._top_ms)
            self._y_axis.tick_labels = {str(height): label for height, label in ticks.items()}
            self._y_axis.tick_values = np.array(list(ticks))
            self._y_scale.max = top
        end_s = max(self.window_s, self._newest_s)
        with self._x_scale.hold_sync():
            self._x_scale.min, self._x_scale.max = end_s - self.window_s, end_s

    def _draw_lines(self) -> None:
        lines = [line.points() for line in self._peaks]
        # bqplot squeezes a table of one column and then draws one line through the points of all.
        longest = max(2, *map(len, lines))
        # One array for all lines makes one message. A short line repeats its last point, and an empty line
        # stays at the origin, which shows nothing. NaN would make bqplot write errors to the console.
        table = np.zeros((2, len(lines), longest), dtype=np.float32)
        for place, points in enumerate(lines):
            if points:
                columns = np.array(points, dtype=np.float32).T
                table[:, place, : len(points)] = columns
                table[:, place, len(points) :] = columns[:, -1:]
        with self._lines.hold_sync():
            self._lines.x = table[0]
            self._lines.y = np.log10(1 + np.maximum(0, table[1]))


def _colours(streams: Sequence[str]) -> list[str]:
    return [palette.stream_colour(place) for place in range(len(streams))]


def _legend(streams: Sequence[str]) -> bqplot.Label:
    """Write the streams' names into the right margin: bqplot's own legend covers the lines."""
    whole = {"x": bqplot.LinearScale(min=0.0, max=1.0), "y": bqplot.LinearScale(min=0.0, max=1.0)}
    return bqplot.Label(
        x=np.full(len(streams), 1.015),
        y=0.96 - 0.1 * np.arange(len(streams)),
        text=list(streams),
        colors=_colours(streams),
        scales=whole,
        default_size=14,
        font_weight="bold",
        apply_clip=False,
    )
