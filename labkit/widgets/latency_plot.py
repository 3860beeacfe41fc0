"""LatencyPlot: how long each stream's reader waits for each token, drawn while it streams."""

import time
from collections.abc import Sequence

import bqplot
import numpy as np

from labkit.widgets import palette
from labkit.widgets.lines import Point
from labkit.widgets.pump import Inbox
from labkit.widgets.still.picture import Picture
from labkit.widgets.still.streams import picture
from labkit.widgets.waits import Event, Waits

_REDRAW_S = 0.06
_SETTLED_S = 1.0
_HEADROOM = 1.1
# bqplot's own colour for the axes' names is orange on a dark page; this grey is legible on both.
_SOFT = "#7d8590"


class LatencyPlot(bqplot.Figure):  # type: ignore[misc]
    """A line per stream of the wait for each token, in ms on a log scale. Any thread may feed it.

    The line of a wait is as long as the wait and at the height log10(1 + ms), so that 0 ms and 500 ms both
    show. Equal lines are drawn side by side. A wait that goes on grows to the right and upwards. The lines
    change at most sixteen times a second; only the pump and `flush` set their traits.

    Args:
        streams: the lines' names; an interface has its own colour.
        window_s: how many seconds the plot shows at first. It grows to four times as many, and then moves on.
        height_px: the plot's height.

    Raises:
        ValueError: no streams, two of one name, or a window that is not positive.
    """

    def __init__(self, streams: Sequence[str], window_s: float = 10, height_px: int = 210) -> None:
        self._places = palette.stream_places(streams)
        self._waits = Waits(len(streams), window_s)
        self.streams = tuple(streams)
        self._x_scale = bqplot.LinearScale(min=0.0, max=float(window_s))
        self._y_scale = bqplot.LinearScale(min=0.0)
        self._x_axis = bqplot.Axis(scale=self._x_scale, label="seconds", label_color=_SOFT)
        self._y_axis = bqplot.Axis(
            scale=self._y_scale,
            side="left",
            label="wait, ms (log scale)",
            label_offset="50px",
            label_color=_SOFT,
        )
        scales = {"x": self._x_scale, "y": self._y_scale}
        self._lines = bqplot.Lines(
            scales=scales,
            colors=palette.colours_of(streams),
            stroke_width=1.5,
            interpolation="step-before",
        )
        self._turns = bqplot.Lines(scales=scales, colors=[_SOFT], stroke_width=1.5)
        self._drawn_turns: tuple[list[tuple[float, str]], float] = [], 0.0
        self._turned_to = bqplot.Label(scales=scales, colors=[_SOFT], default_size=11, x_offset=4)
        self._drawn_at = 0.0
        self._settled = True
        self._hurry = self._dirty = False
        self._draw()
        super().__init__(
            marks=[self._lines, self._turns, self._turned_to, _legend(streams)],
            axes=[self._x_axis, self._y_axis],
            fig_margin={"top": 12, "bottom": 40, "left": 66, "right": 110},
            display_toolbar=False,
        )
        self.layout.width, self.layout.height = "100%", f"{height_px}px"
        self._inbox: Inbox[Event | None] = Inbox(self._take)

    def start(self, stream: str, sent_ns: int) -> None:
        """Show that the stream's reader waits since `sent_ns`, until its first token. O(1), from any thread.

        Raises:
            KeyError: no such stream.
        """
        self._inbox.put(("start", self._places[stream], sent_ns, 0.0))

    def push(self, stream: str, received_ns: int, waited_ms: float) -> None:
        """Show that a token took `waited_ms` and became readable at `received_ns`; errors as in `start`."""
        self._inbox.put(("push", self._places[stream], received_ns, waited_ms))

    def finish(self, stream: str) -> None:
        """Show that the stream's reader waits no more; errors as in `start`."""
        self._inbox.put(("finish", self._places[stream], time.monotonic_ns(), 0.0))

    def turn(self, text: str, at_ns: int) -> None:
        """Mark when a knob was turned, and to what."""
        self._inbox.put(("turn", text, at_ns))

    def clear(self) -> None:
        """Empty the plot; the next request or token is at 0 s."""
        self._inbox.put(None)

    def flush(self) -> None:
        """Draw all waiting tokens, in the calling thread."""
        self._hurry = True
        self._inbox.flush()

    def points(self) -> dict[str, list[Point]]:
        """Return by stream (seconds since the start, the wait in ms), as far as the plot keeps them."""
        self.flush()
        return dict(zip(self.streams, self._waits.lines(time.monotonic_ns()), strict=True))

    def turns(self) -> list[tuple[float, str]]:
        """Return when a knob was turned, in seconds since the start, and to what."""
        self.flush()
        return list(self._waits.turns)

    def span_s(self) -> tuple[float, float]:
        """Return the seconds between which the plot's axis lies."""
        self.flush()
        return self._waits.span_s()

    def picture(self) -> Picture:
        """Draw what the plot shows, as a PNG for a page without a kernel."""
        return picture(plot=self)

    def __repr__(self) -> str:
        return f"LatencyPlot({', '.join(self.streams)})"

    def _take(self, events: list[Event | None]) -> bool:
        for event in events:
            self._waits.take(event)
        now = time.monotonic()
        self._dirty = self._dirty or bool(events) or bool(self._waits.open)
        if self._hurry or (self._dirty and now - self._drawn_at >= _REDRAW_S):
            self._drawn_at = now
            self._hurry = self._dirty = self._settled = False
            self._draw()
        elif not self._dirty and not self._settled and now - self._drawn_at > _SETTLED_S:
            # Any message may be lost, so the last one is sent twice.
            self._settled = True
            for mark in (self._lines, self._turns):
                mark.send_state(["x", "y"])
        return not self._settled or bool(self._waits.open)

    def _draw(self) -> None:
        lines = self._waits.lines(time.monotonic_ns())
        self._scale()
        self._draw_lines(lines)
        self._draw_turns()

    def _scale(self) -> None:
        top = palette.height_of(self._waits.top_ms)
        if self._y_scale.max != top * _HEADROOM:
            ticks = palette.ticks_up_to(self._waits.top_ms)
            self._y_axis.tick_labels = {str(height): label for height, label in ticks.items()}
            self._y_axis.tick_values = np.array(list(ticks))
            self._y_scale.max = top * _HEADROOM
        span_s = self._waits.span_s()
        if (self._x_scale.min, self._x_scale.max) != span_s or self._x_axis.tick_values is None:
            self._x_axis.tick_values = np.array(palette.ticks_s(*span_s))
            with self._x_scale.hold_sync():
                self._x_scale.min, self._x_scale.max = span_s

    def _draw_lines(self, lines: list[list[Point]]) -> None:
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
        top = palette.height_of(self._waits.top_ms)
        lifts = np.array([[palette.lift_of(place, top)] for place in range(len(lines))], dtype=np.float32)
        with self._lines.hold_sync():
            self._lines.x = table[0]
            self._lines.y = np.log10(1 + np.maximum(0, table[1])) + lifts

    def _draw_turns(self) -> None:
        turns = self._waits.turns
        if (drawn := (turns, self._y_scale.max)) == self._drawn_turns:
            return
        self._drawn_turns = drawn
        at_s = np.array([at_s for at_s, _ in turns] or [0.0])
        # Two lines at least, for the reason above. Those of no turn have no height.
        with self._turns.hold_sync():
            self._turns.x = np.repeat(np.array([*at_s, at_s[-1]])[:, None], 2, axis=1)
            self._turns.y = np.repeat([[0.0, self._y_scale.max if turns else 0.0]], len(at_s) + 1, axis=0)
        with self._turned_to.hold_sync():
            self._turned_to.x = at_s
            self._turned_to.y = np.full(len(at_s), self._y_scale.max * 0.96)
            self._turned_to.text = [text for _, text in turns]
        # bqplot's page draws a new text only with new positions.
        self._turned_to.send_state(["x", "y", "text"])


def _legend(streams: Sequence[str]) -> bqplot.Label:
    """Write the streams' names into the right margin: bqplot's own legend covers the lines."""
    whole = {"x": bqplot.LinearScale(min=0.0, max=1.0), "y": bqplot.LinearScale(min=0.0, max=1.0)}
    return bqplot.Label(
        x=np.full(len(streams), 1.015),
        y=0.94 - 0.13 * np.arange(len(streams)),
        text=list(streams),
        colors=palette.colours_of(streams),
        scales=whole,
        default_size=14,
        font_weight="bold",
        apply_clip=False,
    )
