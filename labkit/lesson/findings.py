"""Findings of a chapter: one sentence on what was measured just now."""

import os
from types import EllipsisType

from labkit.figures.quiet import QUIET, Neighbours
from labkit.figures.verdict import Outcome

MODE = "LABKIT_FINDINGS"
"""The environment variable that is `strict` where a chapter is tested, and not set where somebody learns."""
SHORTEST_S = 0.5

Figure = float | str


class Measurement:
    """The time since the finding before, and what others used of the machine in it.

    Findings in a row are on one measurement, so one that comes within half a second does not begin another.
    """

    def __init__(self) -> None:
        self._before = self._now = Neighbours()

    def others(self) -> float:
        """The share of the cores that others used; what comes after is the next measurement."""
        if self._now.seconds() < SHORTEST_S:
            return self._before.share()
        self._before, self._now = self._now, Neighbours()
        return self._before.share()


_measurement = Measurement()


def finding(claim: str, holds: bool, **figures: Figure) -> None:
    """Say what was found just now, or in one line that this run did not show it.

        finding("over SSE the first token came sooner", sse_ms < rest_ms, sse_ms=sse_ms, rest_ms=rest_ms)

    Args:
        figures: what was measured, by name; shown where the claim does not hold. A busy machine can spoil a
            claim that rests on such figures. It cannot spoil one on exact counts or texts: give none there.

    Raises:
        AssertionError: chapters are tested (`LABKIT_FINDINGS=strict`), the claim does not hold, and the
            machine was quiet enough to tell or the claim has no figures.
    """
    others = _measurement.others()
    if holds:
        print(f"✓ {claim}")
    else:
        _missed(claim, figures, others)


def settle(claim: str, outcome: Outcome, **figures: Figure) -> None:
    """Say what `labkit.figures.verdict` makes of a claim; "not settled in this run" is an answer too.

    The figures, and what is raised where the claim fails, are as in `finding`.
    """
    if outcome == "inconclusive":
        print(f"? not settled in this run: {claim}")
    else:
        finding(claim, outcome == "holds", **figures)


def guessed(guess: float | EllipsisType, measured: float, unit: str) -> None:
    """Show a prediction beside what was measured just now; `...` is one that was not made."""
    prediction = "You made no guess" if isinstance(guess, EllipsisType) else f"You guessed {guess:g} {unit}"
    print(f"{prediction}; just now it was {measured:,.4g} {unit}.")


def _missed(claim: str, figures: dict[str, Figure], others: float) -> None:
    shown = [f"{name} {_shown(figure)}" for name, figure in figures.items()]
    if busy := bool(figures) and others > QUIET:
        shown.append(f"others used {others:.0%} of the cores")
    line = " — ".join([claim, ", ".join(shown)]) if shown else claim
    if os.environ.get(MODE) != "strict":
        print(f"not in this run: {line}")
    elif busy:
        print(f"inconclusive: {line}")
    else:
        raise AssertionError(f"not in this run: {line}")


def _shown(figure: Figure) -> str:
    if isinstance(figure, str):
        return figure
    return f"{figure:,.0f}" if isinstance(figure, int) or abs(figure) >= 1000 else f"{figure:.4g}"
