"""How each state of a request is drawn: its colour on a light and on a dark page, and how tall its bar is."""

from collections.abc import Mapping
from dataclasses import dataclass

from labkit.engine.trace import State


@dataclass(frozen=True)
class Look:
    """A bar's colours on a light and on a dark page.

    A request in a tall state holds KV, in a low one it holds none. A state that `costs` is drawn at least
    some pixels wide, however short it was.
    """

    colour: str
    dark: str
    tall: bool
    costs: bool = False


LOOKS: Mapping[State, Look] = {
    "waiting": Look("#b3bcc5", "#55606a", tall=False),
    "prefill": Look("#a84300", "#bd4f04", tall=True, costs=True),
    "decode": Look("#58a8e0", "#4fa3e3", tall=True),
    "paused": Look("#f7e07c", "#f8e6a0", tall=True),
    "evicted": Look("#a3123f", "#ffb9c6", tall=False, costs=True),
    "swapped": Look("#9465c4", "#a87ddb", tall=False, costs=True),
}
"""In the legend's order. Bars of one height differ in lightness too, for colour-blind readers."""

ENDS: frozenset[State] = frozenset({"finished", "dropped"})
"""States in which a request is over: nothing is drawn for them."""

LOW = 0.36
"""A low bar's height, as a share of a tall one's."""
