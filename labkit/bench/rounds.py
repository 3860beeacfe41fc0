"""What all benchmarks share: their options, a report of progress, an order that turns."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

Progress = Callable[[str, float], None]
"""Gets what is being done, in a few words, and the share of the whole that is done (0 to 1)."""


def silent(what: str, done: float) -> None:
    """A `Progress` that reports nothing."""


@dataclass(frozen=True)
class Options:
    """What `labkit bench` passes to every benchmark; each takes what concerns it.

    Attributes:
        interfaces: their names; None for all that are installed.
        engine: the text form of the engine that `ruler` measures beside.
        quick: rough figures within seconds.
    """

    interfaces: Sequence[str] | None = None
    engine: str = "tiny"
    quick: bool = False


def rotated(names: Sequence[str], turn: int) -> list[str]:
    """The names from the `turn`-th on, then the ones before it, so that each is first in turn."""
    start = turn % max(1, len(names))
    return [*names[start:], *names[:start]]
