"""A picture that stays in the saved notebook: a PNG with a title, and a text for people who cannot see it."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from labkit.widgets.lines import Point
from labkit.widgets.palette import INK, LINE, SOFT

WIDTH_PX = 960
PX_PER_INCH = 96
DOTS_PER_PX = 2


@dataclass(frozen=True)
class Picture:
    """A PNG at twice the notebook's width. A cell shows `title`, which has no figures; `alt` has them.

    It is drawn on nothing, in inks that are legible on a light and on a dark page. A page without a kernel,
    such as GitHub's, shows the saved PNG alone, and no theme or script could choose another there.
    """

    png: bytes = field(repr=False)
    title: str
    alt: str

    def __repr__(self) -> str:
        return f"Picture({self.title})"

    def _repr_mimebundle_(self, **_: object) -> tuple[dict[str, str], dict[str, Any]]:
        data = {"image/png": base64.b64encode(self.png).decode(), "text/plain": repr(self)}
        return data, {"image/png": {"width": WIDTH_PX, "alt": self.alt}}


def png(figure: Figure) -> bytes:
    """Return the figure, without a background, as a PNG at twice its size in pixels."""
    buffer = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.set_facecolor("none")
    for axes in figure.axes:
        axes.set_facecolor("none")
    figure.savefig(buffer, format="png", dpi=PX_PER_INCH * DOTS_PER_PX)
    return buffer.getvalue()


def draw_line(axes: Axes, points: Sequence[Point], **style: Any) -> None:
    """Draw a line through the points."""
    axes.plot([at_s for at_s, _ in points], [value for _, value in points], **style)


def draw_turns(axes: Axes, turns: Sequence[tuple[float, str]], named: bool = True) -> None:
    """Draw a dashed line at each time when a knob was turned, with what it was turned to if `named`."""
    for at_s, text in turns:
        axes.axvline(at_s, color=SOFT, linewidth=0.9, linestyle=(0, (3, 3)), zorder=5)
        if named:
            place = (at_s, 1.0)
            axes.annotate(
                text, place, (4, -2), xycoords=axes.get_xaxis_transform(), textcoords="offset points",
                fontsize=7.5, color=INK, va="top",
            )  # fmt: skip


def style_axes(axes: Axes) -> None:
    """Give the axes the look that all pictures share: a thin grid, and of its frame the time axis alone."""
    axes.tick_params(labelsize=7.5, colors=SOFT, length=0)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(LINE)
