"""One colour per interface in every view and picture, legible on a light and on a dark page."""

from io import BytesIO
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from labkit import interfaces
from labkit.widgets import LatencyPlot, TokenView, chart, palette
from labkit.widgets.still.picture import Picture

MS = 1_000_000
PAGES = {"light": "#ffffff", "JupyterLab's dark": "#111111", "GitHub's dark": "#0d1117"}

pytestmark = pytest.mark.usefixtures("quick_pump")


def pixels(picture: Picture) -> Any:
    """The picture's pixels: red, green, blue and how opaque, 0 to 1."""
    return imread(BytesIO(picture.png))


def count(picture: Picture, colour: str) -> int:
    """How many opaque pixels have this colour."""
    return int(np.all(np.abs(pixels(picture) - (*to_rgb(colour), 1.0)) < 1 / 255, axis=2).sum())


def contrast(one: str, other: str) -> float:
    """The contrast of two colours as WCAG 2 defines it, 1 to 21."""

    def luminance(colour: str) -> float:
        parts = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
        return float(np.dot(parts, [0.2126, 0.7152, 0.0722]))

    dark, light = sorted([luminance(one), luminance(other)])
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("name", interfaces.names())
def test_an_interface_has_one_colour_alone_and_in_company(name: str) -> None:
    everyone = interfaces.names()
    colour = palette.colours_of([name])[0]
    assert palette.colours_of(everyone)[everyone.index(name)] == colour
    assert palette.colours_of(["budget 64", name])[1] == colour
    assert TokenView([name]).look["streams"][0]["colour"] == colour
    assert LatencyPlot(["other", name])._lines.colors[1] == colour
    line = {"other": [1.0, 2.0], name: [2.0, 1.0]}
    assert count(chart([1, 2], line, x="x", y="y"), colour) > 500
    view = TokenView(["other", name])
    assert count(view.picture(), colour) > 500, "the stored view has it too"


def test_other_streams_get_other_colours() -> None:
    assert len(set(palette.colours_of([*interfaces.names(), "budget 64", "budget 1,024"]))) == 6
    assert len(palette.colours_of([f"story {n}" for n in range(20)])) == 20


@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES.keys())
def test_inks_and_lines_are_legible_on_every_page(page: str) -> None:
    assert contrast(palette.INK, page) > 4
    assert contrast(palette.BAD, page) > 4
    assert contrast(palette.SOFT, page) > 3.5
    assert min(contrast(colour, page) for colour in palette.STREAM_COLOURS[:4]) > 3


def test_stored_pictures_have_no_background() -> None:
    view, plot = TokenView(["sse"]), LatencyPlot(["sse"])
    view.push("sse", "text", 0)
    plot.push("sse", 0, 20.0)
    pictures = [view.picture(), plot.picture(), chart([1, 2], {"sse": [1, 2]}, x="x", y="y")]
    for picture in pictures:
        opaque = pixels(picture)[:, :, 3]
        assert opaque[0, 0] == 0
        assert (opaque == 0).mean() > 0.5


def test_lines_that_coincide_are_told_apart_live_and_stored() -> None:
    names = interfaces.names()
    plot = LatencyPlot(names)
    for i in range(100):
        for name in names:
            plot.push(name, i * 50 * MS, 40.0)
    plot.flush()
    heights = plot._lines.y[:, -1]
    px = np.diff(heights) / plot._y_scale.max * 158  # the height of its axes
    assert (px > plot._lines.stroke_width * 0.9).all()
    visible = [count(plot.picture(), colour) for colour in palette.colours_of(names)]
    assert min(visible) > 0.5 * max(visible), "each is seen along its whole length"


def test_a_chart_tells_few_values_and_the_range_of_many() -> None:
    assert chart([1, 2], {"sse": [3, 4]}, x="x", y="y").alt == "y over x. sse: 3, 4"
    many = chart(range(900), {"sse": range(900)}, x="x", y="y")
    assert many.alt == "y over x. sse: 900 values from 0 to 899"
