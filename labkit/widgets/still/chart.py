"""A small line chart as a picture that stays in the saved notebook."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from labkit.widgets import palette
from labkit.widgets.still.picture import Picture, png

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
    figure = Figure(figsize=(7.5, 3.2), facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    few = len(at) <= FEW
    for place, (name, values) in enumerate(series.items()):
        if len(values) != len(at):
            raise ValueError(f"{name}: {len(values)} values for {len(at)} positions")
        marker = "o" if few else None
        axes.plot(at, values, marker=marker, color=palette.stream_colour(place), label=name)
    axes.set(xlabel=x, ylabel=y, yscale="log" if log else "linear")
    if few:
        axes.set_xticks(list(at))
    if log:
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color=palette.LINE)
    axes.legend(frameon=False)
    figures = "; ".join(
        f"{name}: {', '.join(f'{value:.4g}' for value in values)}" for name, values in series.items()
    )
    return Picture(png(figure), f"chart of {', '.join(series)}", f"{y} over {x}. {figures}")
