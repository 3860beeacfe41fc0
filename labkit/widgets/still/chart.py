"""A small line chart as a picture that stays in the saved notebook."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from labkit.widgets import palette
from labkit.widgets.still.picture import PX_PER_INCH, WIDTH_PX, Picture, png, style_axes

FEW = 20
"""With up to this many positions, each has a mark and a number."""


def chart(
    at: Sequence[float], series: Mapping[str, Sequence[float]], *, x: str, y: str, log: bool = False
) -> Picture:
    """Draw a line per series over the positions `at`; `x` and `y` name the axes with their units.

        chart([1, 8, 32], {"tiny": [300, 900, 1400]}, x="requests at once", y="tokens/s")

    Raises:
        ValueError: a series is not as long as `at`.
    """
    figure = Figure(figsize=(WIDTH_PX / PX_PER_INCH, 3.2), layout="constrained")
    axes = figure.add_subplot()
    few = len(at) <= FEW
    for (name, values), colour in zip(series.items(), palette.colours_of(list(series)), strict=True):
        if len(values) != len(at):
            raise ValueError(f"{name}: {len(values)} values for {len(at)} positions")
        marker = "o" if few else None
        axes.plot(at, values, marker=marker, color=colour, label=name)
    axes.set_yscale("log" if log else "linear")
    axes.set_xlabel(x, color=palette.INK)
    axes.set_ylabel(f"{y} (log scale)" if log else y, color=palette.INK)
    if few:
        axes.set_xticks(list(at))
    if log:
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_ylim(bottom=0)
    axes.grid(axis="y", color=palette.LINE)
    style_axes(axes)
    axes.tick_params(which="both", labelsize=9, colors=palette.INK)
    axes.legend(frameon=False, labelcolor=palette.INK)
    figures = "; ".join(f"{name}: {_told(values)}" for name, values in series.items())
    return Picture(png(figure), f"chart of {', '.join(series)}", f"{y} over {x}. {figures}")


def _told(values: Sequence[float]) -> str:
    """Say the values, or how many there are and between which they lie."""
    if len(values) <= FEW:
        return ", ".join(f"{value:.4g}" for value in values)
    return f"{len(values)} values from {min(values):.4g} to {max(values):.4g}"
