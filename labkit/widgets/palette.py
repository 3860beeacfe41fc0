"""Colours: one per interface, live and stored, and tints of tokens by the wait for them.

Streams have Okabe and Ito's hues, which colour-blind readers can tell apart, at a lightness that shows on
white and on near-black. So has a stored picture's ink: it is drawn on nothing, and the page under it may be
light or dark. The tints of waits go from none over pale yellow to dark brown, so they differ in lightness and
not in hue alone; each has an ink of its own, and is the same on every page.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from labkit import interfaces
from labkit.errors import StartError

STREAM_COLOURS = ("#2b7fc4", "#d55e00", "#1a9e77", "#a768c4", "#b8900a", "#5f8a9e", "#c2527f", "#7d8c1f")

INK, SOFT, LINE, BAD = "#6f7782", "#7d8590", "#7d859060", "#d3453b"
"""A stored picture's text, its less important text, its rules and errors: legible on white and near-black."""

LIFT = 0.012
"""How much higher each stream's line is drawn than the one before it, as a share of a plot's height."""


@dataclass(frozen=True)
class Tint:
    """The look of a token after a wait of at least `from_ms` ms; `paper` is None for no tint."""

    from_ms: float
    label: str
    paper: str | None
    ink: str


TINTS = (
    Tint(0, "< 2", None, "#1f2328"),
    Tint(2, "2–10", "#fff3b8", "#1f2328"),
    Tint(10, "10–30", "#ffe08a", "#1f2328"),
    Tint(30, "30–60", "#fdc04d", "#1f2328"),
    Tint(60, "60–120", "#f78f28", "#1f2328"),
    Tint(120, "120–250", "#c9500a", "#ffffff"),
    Tint(250, "≥ 250", "#7a2c06", "#ffffff"),
)
_EDGES = [tint.from_ms for tint in TINTS]

TICKS_MS = (0, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 60_000)
DECADES_MS = (0, 10, 100, 1000, 10_000, 100_000)
STEPS_S = (1, 2, 5, 10, 20, 50, 100, 200, 500)
MOST_TICKS = 9
MOST_WITH_ALL_TICKS_MS = 500


def stream_places(streams: Sequence[str]) -> dict[str, int]:
    """Return each stream's position, which chooses its colour.

    Raises:
        ValueError: no streams, or two of one name.
    """
    if not streams or len(set(streams)) != len(streams):
        raise ValueError(f"streams must be named, each once: {list(streams)}")
    return {name: place for place, name in enumerate(streams)}


def colours_of(streams: Sequence[str]) -> list[str]:
    """Return a colour for each stream: an interface's own, which its rank chooses, or one that is left.

    An interface with a rank below 90 has the same colour in every view and picture.
    """
    own = {name: place for name in streams if (place := _place_of(name)) is not None}
    left = [place for place in range(len(STREAM_COLOURS)) if place not in own.values()] or [0]
    others = [name for name in streams if name not in own]
    chosen = own | {name: left[number % len(left)] for number, name in enumerate(others)}
    return [stream_colour(chosen[name]) for name in streams]


def _place_of(name: str) -> int | None:
    """The place in the table of an interface's colour, or None for another name."""
    with suppress(StartError):
        place = interfaces.client(name).rank // 10 - 1
        return place if 0 <= place < len(STREAM_COLOURS) else None
    return None


def stream_colour(position: int) -> str:
    """Return the colour of the stream at this position as `#rrggbb`; the ninth has the first colour again."""
    return STREAM_COLOURS[position % len(STREAM_COLOURS)]


def tint_of(wait_ms: float) -> int:
    """Return the index in TINTS of a wait in ms. A negative wait (clocks that disagree) counts as 0 ms."""
    return max(0, bisect_right(_EDGES, wait_ms) - 1)


def height_of(ms: float) -> float:
    """Return where a plot draws a wait in ms: log10(1 + ms), so that 0 ms and 500 ms both show."""
    return math.log10(1.0 + max(0.0, ms))


def lift_of(place: int, top: float) -> float:
    """Return how far a stream's line is raised on a plot up to `top`: equal lines lie side by side."""
    return LIFT * place * top


def tick_above(ms: float) -> float:
    """Return the lowest tick that is not below `ms`, or `ms` itself if it is above the last tick."""
    return next((float(tick) for tick in TICKS_MS if tick >= ms), ms)


def ticks_up_to(top_ms: float) -> dict[float, str]:
    """Return the ticks from 0 to `top_ms`: by height, what to write beside it. High plots have decades."""
    ticks = TICKS_MS if top_ms <= MOST_WITH_ALL_TICKS_MS else DECADES_MS
    return {height_of(tick): f"{tick:,}" for tick in ticks if tick <= top_ms}


def ticks_s(from_s: float, to_s: float) -> list[float]:
    """Return up to nine round times for an axis between two times in seconds."""
    step = next((step for step in STEPS_S if (to_s - from_s) / step <= MOST_TICKS - 1), to_s - from_s)
    return [step * number for number in range(math.ceil(from_s / step), math.floor(to_s / step) + 1)]
