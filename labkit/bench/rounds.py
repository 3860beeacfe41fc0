"""What all benchmarks share: their options, a report of progress, an order that turns."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

Progress = Callable[[str, float], None]
"""A function that gets the present step, in a few words, and the share of the whole that is done (0 to 1)."""


def silent(step: str, share: float) -> None:
    """A `Progress` that reports nothing."""


@dataclass(frozen=True)
class BenchOptions:
    """What `labkit bench` passes to every benchmark; each uses what it needs.

    Attributes:
        interfaces: their names; None for all that are installed.
        engine: the text form of the engine beside which `ruler` measures.
        quick: rough figures within seconds.
    """

    interfaces: Sequence[str] | None = None
    engine: str = "tiny"
    quick: bool = False


def rotated(names: Sequence[str], turn: int) -> list[str]:
    """Rotate the names, so that each is first in turn: `rotated(["a", "b", "c"], 1)` is `["b", "c", "a"]`."""
    start = turn % max(1, len(names))
    return [*names[start:], *names[:start]]
