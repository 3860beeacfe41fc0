"""The static picture of a token view and, beneath it, a latency plot."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.patches import Rectangle

from labkit.widgets import palette
from labkit.widgets.columns import Column
from labkit.widgets.lines import Point
from labkit.widgets.palette import BAD, INK, LINE, SOFT
from labkit.widgets.still.picture import (
    DOTS_PER_PX,
    PX_PER_INCH,
    WIDTH_PX,
    Picture,
    draw_line,
    draw_turns,
    png,
    style_axes,
)
from labkit.widgets.still.wrap import last_lines
from labkit.widgets.waits import LEAST_TOP_MS

_LINES = 7
_MARGIN_PX = 12
_TEXT_PX = WIDTH_PX - 2 * _MARGIN_PX
_COLUMNS_A_ROW = 4
_LETTER_PT = 8.0
_LINE_PX = 17
_HEAD_PX = 56
_GAP_PX = 16
_ROW_PX = _HEAD_PX + _LINES * _LINE_PX + _GAP_PX
_LEGEND_PX = 26
_PLOT_PX = 240


def _letter_px() -> float:
    """Measure the width of a letter: hinting makes it a little more than the font's nominal width."""
    font = get_font(findfont(FontProperties(family="monospace")))
    font.set_size(_LETTER_PT, PX_PER_INCH * DOTS_PER_PX)
    font.set_text("M" * 100, 0.0)
    return float(font.get_width_height()[0]) / 64 / 100 / DOTS_PER_PX


_LETTER_PX = _letter_px()


class HasColumns(Protocol):
    """A token view, as far as a picture needs it."""

    wait_scale_s: float

    def columns(self) -> Sequence[Column]:
        """Return the streams' text and figures."""


class HasPoints(Protocol):
    """A latency plot, as far as a picture needs it."""

    def points(self) -> Mapping[str, Sequence[Point]]:
        """Return by stream (seconds, the wait in ms)."""

    def turns(self) -> Sequence[tuple[float, str]]:
        """Return when a knob was turned (seconds), and to what."""

    def span_s(self) -> tuple[float, float]:
        """Return where the axis begins and ends (seconds)."""


def picture(view: HasColumns | None = None, plot: HasPoints | None = None) -> Picture:
    """Draw the view's columns and, beneath them, the plot's lines.

    Raises:
        ValueError: neither a view nor a plot.
    """
    columns = view.columns() if view else []
    waits = plot.points() if plot else {}
    names = [column.name for column in columns] or list(waits)
    if not names:
        raise ValueError("a picture needs a view or a plot")
    rows = [columns[i : i + _COLUMNS_A_ROW] for i in range(0, len(columns), _COLUMNS_A_ROW)]
    text_px = len(rows) * _ROW_PX + _LEGEND_PX + 2 * _MARGIN_PX if rows else 0
    height_px = text_px + (_PLOT_PX if waits else 0)
    figure = Figure(figsize=(WIDTH_PX / PX_PER_INCH, height_px / PX_PER_INCH))
    if rows and view:
        _draw_rows(_page(figure, text_px, height_px), rows, 1e3 * view.wait_scale_s)
    if plot and waits:
        _draw_waits(figure, plot, height_px)
    return Picture(png(figure), ", ".join(names), _alt(columns, waits))


def _page(figure: Figure, text_px: float, height_px: float) -> Axes:
    """Add axes over the figure's top; their units are pixels, y points downwards."""
    page = figure.add_axes((0, 1 - text_px / height_px, 1, text_px / height_px))
    page.set(xlim=(-_MARGIN_PX, WIDTH_PX - _MARGIN_PX), ylim=(text_px - _MARGIN_PX, -_MARGIN_PX))
    page.axis("off")
    return page


def _draw_rows(page: Axes, rows: Sequence[Sequence[Column]], wait_scale_ms: float) -> None:
    width_px = (_TEXT_PX + _GAP_PX) / len(rows[0]) - _GAP_PX
    colours = iter(palette.colours_of([column.name for row in rows for column in row]))
    for number, row in enumerate(rows):
        for place, column in enumerate(row):
            colour, x, y = next(colours), place * (width_px + _GAP_PX), number * _ROW_PX
            _draw_column(page, column, colour, x, y, width_px)
            _draw_wait(page, column, colour, x, y + _HEAD_PX - 7, width_px, wait_scale_ms)
    _draw_legend(page, len(rows) * _ROW_PX)


def _draw_wait(
    page: Axes, column: Column, colour: str, x: float, y: float, width_px: float, scale_ms: float
) -> None:
    """Draw the wait for the first token as a bar; a wait of `scale_ms` fills it."""
    page.add_patch(Rectangle((x, y), width_px, 4, color=LINE, linewidth=0))
    share = min(1.0, (column.waited_ms() or 0.0) / scale_ms)
    page.add_patch(Rectangle((x, y), width_px * share, 4, color=colour, linewidth=0))


def _draw_column(page: Axes, column: Column, colour: str, x: float, y: float, width_px: float) -> None:
    page.add_patch(Rectangle((x, y), width_px, 3, color=colour, linewidth=0))
    _write(page, x, y + 17, column.name, size=9.5, weight="bold")
    letters = int((width_px - 10 * len(column.name)) / 6)
    note = column.note if len(column.note) <= letters else column.note[: max(0, letters - 1)] + "…"
    note_colour = BAD if column.failed else SOFT
    _write(page, x + width_px, y + 17, note, size=7.5, color=note_colour, ha="right")
    _write(page, x, y + 35, _figures(column), size=7.5, color=SOFT)
    letters = int(width_px / _LETTER_PX)
    for row, line in enumerate(last_lines(column.runs, letters, _LINES)):
        at = x
        middle = y + _HEAD_PX + (row + 0.5) * _LINE_PX
        for tint, text in line:
            _draw_run(page, tint, text, at, middle)
            at += len(text) * _LETTER_PX


def _draw_run(page: Axes, tint: int, text: str, x: float, middle: float) -> None:
    look = palette.TINTS[tint]
    if look.paper:
        width = len(text) * _LETTER_PX
        page.add_patch(Rectangle((x, middle - 7.5), width, 15, color=look.paper, linewidth=0))
    ink = look.ink if look.paper else INK
    _write(page, x, middle, _drawable(text), size=_LETTER_PT, color=ink, family="monospace")


def _draw_legend(page: Axes, y: float) -> None:
    _write(page, 0, y + 8, "waited, ms", size=7.5, color=SOFT)
    x = 68.0
    for tint in palette.TINTS:
        width = 16 + 6.2 * len(tint.label)
        if tint.paper:
            page.add_patch(Rectangle((x, y), width, 16, color=tint.paper, linewidth=0))
        ink = tint.ink if tint.paper else INK
        _write(page, x + width / 2, y + 8, tint.label, size=7.5, color=ink, ha="center")
        x += width + 3


def _draw_waits(figure: Figure, plot: HasPoints, height_px: float) -> None:
    waits = plot.points()
    left, right, bottom, top = 60, 112, 40, 14
    width, height = 1 - (left + right) / WIDTH_PX, (_PLOT_PX - top - bottom) / height_px
    axes = figure.add_axes((left / WIDTH_PX, bottom / height_px, width, height))
    highest = max([LEAST_TOP_MS, *(palette.tick_above(ms) for points in waits.values() for _, ms in points)])
    most = palette.height_of(highest)
    for place, (points, colour) in enumerate(
        zip(waits.values(), palette.colours_of(list(waits)), strict=True)
    ):
        lift = palette.lift_of(place, most)
        heights = [(at_s, palette.height_of(ms) + lift) for at_s, ms in points]
        draw_line(axes, heights, color=colour, linewidth=1.4, drawstyle="steps-pre")
        axes.text(1.01, 0.97 - 0.11 * place, list(waits)[place], transform=axes.transAxes, color=colour,
                  fontsize=9, fontweight="bold", va="top")  # fmt: skip
    draw_turns(axes, plot.turns())
    ticks = palette.ticks_up_to(highest)
    axes.set_yticks(list(ticks), list(ticks.values()))
    axes.set_ylim(0, most * 1.1)
    axes.set_xlim(*plot.span_s())
    axes.set_xlabel("seconds", fontsize=8, color=SOFT)
    axes.set_ylabel("wait, ms (log scale)", fontsize=8, color=SOFT)
    axes.grid(axis="y", color=LINE, linewidth=0.6)
    style_axes(axes)


def _write(page: Axes, x: float, y: float, text: str, size: float, color: str = INK, **style: Any) -> None:
    page.text(x, y, text, fontsize=size, color=color, va="center_baseline", parse_math=False, **style)


def _drawable(text: str) -> str:
    """Return the text with a box for each letter that the font lacks."""
    font = get_font(findfont(FontProperties(family="monospace")))
    return "".join(letter if font.get_char_index(ord(letter)) else "□" for letter in text)


def _figures(column: Column) -> str:
    figures = [f"{column.tokens:,} tokens"]
    if column.ttft_ms is not None:
        figures.append(f"TTFT {column.ttft_ms:.0f} ms")
    per_s = column.per_s()
    if per_s is not None:
        figures.append(f"{per_s:.0f}/s")
    return " · ".join(figures)


def _alt(columns: Sequence[Column], waits: Mapping[str, Sequence[Point]]) -> str:
    parts = []
    if columns:
        figures = "; ".join(f"{column.name}: {_figures(column)}" for column in columns)
        parts.append(f"Text streamed side by side, tinted by how long each token was waited for. {figures}.")
    if waits:
        worst = "; ".join(
            f"{name} up to {max(ms for _, ms in points):.0f} ms" for name, points in waits.items() if points
        )
        parts.append(f"The wait for each token over time: {worst or 'no tokens yet'}.")
    return " ".join(parts)
