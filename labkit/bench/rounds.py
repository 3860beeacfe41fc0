"""What all measuring shares: an order that turns, and a word on how far it is."""

from collections.abc import Callable, Sequence

Progress = Callable[[str, float], None]  # what is being done, and how much of the whole is (0 to 1)


def silent(what: str, done: float) -> None:
    """A `Progress` that tells nobody."""


def rotated(names: Sequence[str], turn: int) -> list[str]:
    """The same names, begun one further on in every turn, so that none always comes first."""
    start = turn % len(names)
    return [*names[start:], *names[:start]]
