"""Colours: one per stream, and tints of tokens by the wait for them.

Streams have Okabe and Ito's hues, which colour-blind readers can tell apart, at a lightness that shows on
white and on near-black. The tints of waits go from none to dark brown on a light page, and to pale yellow on
a dark one, so they differ in lightness and not in hue alone.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

STREAM_COLOURS = ("#2b7fc4", "#d55e00", "#1a9e77", "#a768c4", "#b8900a", "#5f8a9e", "#c2527f", "#7d8c1f")

INK, SOFT, LINE, BAD = "#1f2328", "#57606a", "#d8dee4", "#b3261e"
"""A picture's text, its less important text, its rules, and errors, on white."""


@dataclass(frozen=True)
class Tint:
    """The look of a token after a wait of at least `from_ms` ms; `paper` is None for no tint."""

    from_ms: float
    label: str
    paper: str | None
    ink: str
    dark_paper: str | None
    dark_ink: str


TINTS = (
    Tint(0, "< 2", None, "#1f2328", None, "#e6e6e6"),
    Tint(2, "2–10", "#fff3b8", "#1f2328", "#332a17", "#f0ead8"),
    Tint(10, "10–30", "#ffe08a", "#1f2328", "#51400f", "#fbf3dc"),
    Tint(30, "30–60", "#fdc04d", "#1f2328", "#7a5a08", "#fff9e8"),
    Tint(60, "60–120", "#f78f28", "#1f2328", "#b27d0c", "#171000"),
    Tint(120, "120–250", "#c9500a", "#ffffff", "#e5ad35", "#171000"),
    Tint(250, "≥ 250", "#7a2c06", "#ffffff", "#ffe9ab", "#171000"),
)
_EDGES = [tint.from_ms for tint in TINTS]

TICKS_MS = (0, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 60_000)


def stream_places(streams: Sequence[str]) -> dict[str, int]:
    """Return each stream's position, which chooses its colour.

    Raises:
        ValueError: no streams, or two of one name.
    """
    if not streams or len(set(streams)) != len(streams):
        raise ValueError(f"streams must be named, each once: {list(streams)}")
    return {name: place for place, name in enumerate(streams)}


def stream_colour(position: int) -> str:
    """Return the colour of the stream at this position as `#rrggbb`; the ninth has the first colour again."""
    return STREAM_COLOURS[position % len(STREAM_COLOURS)]


def tint_of(wait_ms: float) -> int:
    """Return the index in TINTS of a wait in ms. A negative wait (clocks that disagree) counts as 0 ms."""
    return max(0, bisect_right(_EDGES, wait_ms) - 1)


def height_of(ms: float) -> float:
    """Return where a plot draws a wait in ms: log10(1 + ms), so that 0 ms and 500 ms both show."""
    return math.log10(1.0 + max(0.0, ms))


def tick_above(ms: float) -> float:
    """Return the lowest tick that is not below `ms`, or `ms` itself if it is above the last tick."""
    return next((float(tick) for tick in TICKS_MS if tick >= ms), ms)


def ticks_up_to(top_ms: float) -> dict[float, str]:
    """Return the ticks from 0 to `top_ms`: by height, what to write beside it."""
    return {height_of(tick): str(tick) for tick in TICKS_MS if tick <= top_ms}
