"""The static picture of a schedule, or of several beneath each other."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from labkit.engine.trace import Record
from labkit.widgets import palette
from labkit.widgets.palette import INK, LINE, SOFT
from labkit.widgets.request_row import RequestRow, Span
from labkit.widgets.schedule import Schedule, Turned, clock_s
from labkit.widgets.states import LOOKS, LOW
from labkit.widgets.still.picture import (
    PX_PER_INCH,
    WIDTH_PX,
    Picture,
    draw_line,
    draw_turns,
    png,
    style_axes,
)

MOST_RUNS = 5
MOST_ROWS = 1_000
_LEFT, _RIGHT, _TOP, _TITLE, _AXIS, _LEGEND = 118, 16, 8, 24, 40, 28
_KV, _UNREAD = 70, 110
_SMALL = 7.5
_NARROW_PX = 1.5
_DASH = 4.0


@runtime_checkable
class HasSchedule(Protocol):
    """A schedule view, as far as a picture needs it."""

    kv_limit: int | None

    def schedule(self) -> Schedule:
        """Return what the view shows."""


Drawable = HasSchedule | Iterable[Record | Turned]


@dataclass(frozen=True)
class _Layout:
    """A figure measured in pixels from its top, and the seconds that each of its panels spans."""

    figure: Figure
    height: float
    from_s: float
    to_s: float

    def panel(self, top: float, height: float, title: str, bold: bool = False) -> Axes:
        """Add axes over the whole width, with `title` above them."""
        width = 1 - (_LEFT + _RIGHT) / WIDTH_PX
        low = 1 - (top + height) / self.height
        axes = self.figure.add_axes((_LEFT / WIDTH_PX, low, width, height / self.height))
        axes.set_xlim(self.from_s, self.to_s)
        _title(axes, title, bold)
        axes.tick_params(labelbottom=False)
        axes.grid(color=LINE, linewidth=0.6)
        style_axes(axes)
        return axes


def schedule_picture(what: Drawable | Mapping[str, Drawable], kv_limit: int | None = None) -> Picture:
    """Draw a run, a view or records: its Gantt, the KV it held and its readers' unread tokens.

    Of several runs by name, as `{"static": records, "fcfs": records}`, it draws the Gantts beneath each other
    on one time axis. `kv_limit` in tokens becomes a line; a view has a limit of its own. A picture of a view
    shows what the view shows; a picture of records shows all of them, or the last 1,000 requests.

    Raises:
        ValueError: no records, no runs, or more than five.
    """
    if not isinstance(what, Mapping):
        limit = what.kv_limit if isinstance(what, HasSchedule) and kv_limit is None else kv_limit
        return _one(_schedule("a picture", what), limit)
    if not 0 < len(what) <= MOST_RUNS:
        raise ValueError(f"a picture compares 1 to {MOST_RUNS} runs, not {len(what)}: choose some")
    return _several({name: _schedule(name, run) for name, run in what.items()})


def _schedule(name: str, source: Drawable) -> Schedule:
    if isinstance(source, HasSchedule):
        return source.schedule()
    records = list(source)
    if not records:
        raise ValueError(f"{name}: no records to draw; run the scheduler first")
    clocks = [clock_s(record) for record in records]
    schedule = Schedule(window_s=max(clocks) - min(clocks) + 1.0, most_rows=MOST_ROWS)
    for record in records:
        schedule.take(record)
    return schedule


def _one(schedule: Schedule, kv_limit: int | None) -> Picture:
    gantt_px = _gantt_px([schedule], row_px=13, most_px=300)[0]
    gantt_top = _TOP + _TITLE + _UNREAD + _TITLE
    kv_top = gantt_top + gantt_px + _TITLE
    bottom = kv_top + _KV
    layout = _layout([schedule], bottom)
    folded = f" ({schedule.folded:,} earlier requests folded away)" if schedule.folded else ""
    unread = layout.panel(_TOP + _TITLE, _UNREAD, "unread by its reader, tokens")
    gantt = layout.panel(gantt_top, gantt_px, f"requests{folded}")
    kv = layout.panel(kv_top, _KV, "KV held, tokens")
    _draw_unread(unread, schedule)
    _draw_gantt(gantt, schedule, gantt_px)
    _draw_kv(kv, schedule, kv_limit)
    for axes in (unread, gantt, kv):
        draw_turns(axes, schedule.turns, named=axes is unread)
    _finish(layout, kv, bottom)
    return Picture(png(layout.figure), "schedule", f"A schedule. {schedule.words()}")


def _several(schedules: Mapping[str, Schedule]) -> Picture:
    heights = _gantt_px(list(schedules.values()), row_px=13, most_px=150)
    bottom = float(_TOP + sum(heights) + _TITLE * len(heights))
    layout = _layout(list(schedules.values()), bottom)
    top = float(_TOP)
    for (name, schedule), gantt_px in zip(schedules.items(), heights, strict=True):
        axes = layout.panel(top + _TITLE, gantt_px, name, bold=True)
        _draw_gantt(axes, schedule, gantt_px)
        top += _TITLE + gantt_px
    _finish(layout, axes, bottom)
    words = " ".join(f"{name}: {schedule.words()}" for name, schedule in schedules.items())
    return Picture(png(layout.figure), f"schedules of {', '.join(schedules)}", f"Schedules. {words}")


def _gantt_px(schedules: Sequence[Schedule], row_px: float, most_px: float) -> list[float]:
    return [min(most_px, max(3, len(schedule.rows)) * row_px) for schedule in schedules]


def _layout(schedules: Sequence[Schedule], bottom: float) -> _Layout:
    height = bottom + _AXIS + _LEGEND
    figure = Figure(figsize=(WIDTH_PX / PX_PER_INCH, height / PX_PER_INCH))
    from_s = min(max(0.0, schedule.now_s - schedule.window_s) for schedule in schedules)
    to_s = max(schedule.now_s for schedule in schedules)
    return _Layout(figure, height, from_s, to_s if to_s > from_s else from_s + 1.0)


def _draw_gantt(axes: Axes, schedule: Schedule, gantt_px: float) -> None:
    rows = list(schedule.rows.values())
    row_px = gantt_px / max(3, len(rows))
    every = int(11 / row_px) + 1
    axes.set_ylim(max(3, len(rows)) - 0.5, -0.5)
    axes.set_yticks(range(0, len(rows), every), [_short(row.name) for row in rows[::every]], color=INK)
    axes.tick_params(axis="y", pad=9)
    axes.grid(visible=False, axis="y")
    for place, row in enumerate(rows):
        _draw_label(axes, place, row)
    least_s = _NARROW_PX * (axes.get_xlim()[1] - axes.get_xlim()[0]) / (WIDTH_PX - _LEFT - _RIGHT)
    for state, look in LOOKS.items():
        half = 0.41 * (1 if look.tall else LOW)
        boxes = [
            _box(place, span, half, least_s if look.costs else 0.0)
            for place, row in enumerate(rows)
            for span in row.spans_until(schedule.now_s)
            if span[0] == state
        ]
        # Without smoothing, each of several neighbours too short to see gets its share of the pixels.
        bars = PolyCollection(boxes, facecolors=look.colour, linewidths=0, antialiaseds=False)
        bars.set_zorder(3 if look.costs else 2)
        axes.add_collection(bars, autolim=False)


def _box(place: int, span: Span, half: float, least_s: float) -> list[tuple[float, float]]:
    _, from_s, to_s = span
    to_s = max(to_s, from_s + least_s)
    return [(from_s, place - half), (to_s, place - half), (to_s, place + half), (from_s, place + half)]


def _draw_label(axes: Axes, place: int, row: RequestRow) -> None:
    """Draw the row's colour beside its name, and a cross where the request was dropped."""
    along = axes.get_yaxis_transform()
    colour = palette.stream_colour(row.place)
    bar = Rectangle(
        (-0.0055, place - 0.4), 0.0035, 0.8, transform=along, color=colour, clip_on=False, linewidth=0
    )
    axes.add_patch(bar)
    if row.state == "dropped":
        axes.plot(row.since_s, place, marker="x", color=INK, markersize=4.5, zorder=4)


def _draw_kv(axes: Axes, schedule: Schedule, kv_limit: int | None) -> None:
    points = schedule.kv.points()
    if points:
        points.append((schedule.now_s, points[-1][1]))
    draw_line(axes, points, color=INK, linewidth=1.2, drawstyle="steps-post")
    if kv_limit is not None:
        axes.axhline(kv_limit, color=SOFT, linewidth=1, linestyle=(0, (5, 4)))
        _title(axes, "KV held, tokens; dashed: the limit")
    axes.set_ylim(0, 1.08 * max(1, kv_limit or 0, *(tokens for _, tokens in points)))
    _few_ticks(axes)


def _draw_unread(axes: Axes, schedule: Schedule) -> None:
    """Draw each reader's line: faint along all of it, and strong in dashes of its own, so that all show."""
    highest = 5.0
    several, shares = len(schedule.rows) > 1, len(palette.STREAM_COLOURS)
    for row in schedule.rows.values():
        points = row.unread_until(schedule.now_s)
        highest = max(highest, *(level for _, level in points), 0.0)
        colour = palette.stream_colour(row.place)
        draw_line(axes, points, color=colour, linewidth=1.1, alpha=0.4 if several else 1.0)
        if several:
            dashes = (-_DASH * (row.place % shares), (_DASH, _DASH * (shares - 1)))
            draw_line(axes, points, color=colour, linewidth=1.5, linestyle=dashes, dash_capstyle="butt")
    axes.set_ylim(0, highest * 1.05)
    _few_ticks(axes)


def _title(axes: Axes, text: str, bold: bool = False) -> None:
    weight, colour = ("bold", INK) if bold else ("normal", SOFT)
    axes.set_title(text, loc="left", fontsize=8, color=colour, fontweight=weight)


def _few_ticks(axes: Axes) -> None:
    axes.locator_params(axis="y", nbins=4, integer=True)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")


def _finish(layout: _Layout, lowest: Axes, bottom: float) -> None:
    """Draw the time axis under the lowest panel, and the legend under the axis."""
    lowest.tick_params(labelbottom=True)
    lowest.set_xlabel("seconds", fontsize=8, color=SOFT)
    page = layout.figure.add_axes((0, 0, 1, _LEGEND / layout.height))
    page.set(xlim=(0, WIDTH_PX), ylim=(_LEGEND, 0))
    page.axis("off")
    x, middle = float(_LEFT), _LEGEND / 2 - 3
    for name, look in LOOKS.items():
        high = 12 if look.tall else 12 * LOW
        page.add_patch(Rectangle((x, middle - high / 2), 20, high, color=look.colour, linewidth=0))
        page.text(x + 25, middle, name, fontsize=_SMALL, color=SOFT, va="center_baseline")
        x += 50 + 6 * len(name)
    page.text(
        x + 4, middle, "tall: holds KV, low: holds none", fontsize=_SMALL, color=SOFT, va="center_baseline"
    )


def _short(name: str) -> str:
    return name if len(name) <= 16 else name[:15] + "…"
