"""Findings of a chapter: one sentence on what was measured just now."""

import os
import reprlib
from types import EllipsisType

from labkit.figures.quiet import QUIET, Neighbours
from labkit.figures.verdict import Outcome

MODE = "LABKIT_FINDINGS"
"""The environment variable that is `strict` in tests of chapters, and not set for a learner."""
SHORTEST_S = 0.5

Figure = float | str


class Measurement:
    """The time since the last finding, and the machine's use by others during it.

    Findings in a row are about one measurement, so one within half a second does not begin another.
    """

    def __init__(self) -> None:
        self._before = self._now = Neighbours()

    def others(self) -> float:
        """Return the share of the cores that others used, and begin the next measurement."""
        if self._now.seconds() < SHORTEST_S:
            return self._before.share()
        self._before, self._now = self._now, Neighbours()
        return self._before.share()


_measurement = Measurement()


def finding(claim: str, holds: bool, **figures: Figure) -> None:
    """Print a claim that holds; otherwise print in one line that this run did not show it.

        finding("over SSE the first token came sooner", sse_ms < rest_ms, sse_ms=sse_ms, rest_ms=rest_ms)

    Args:
        figures: the measured figures by name, shown if the claim does not hold. A busy machine can spoil a
            claim that rests on such figures. It cannot spoil one on exact counts or texts: give none there.

    Raises:
        AssertionError: the claim does not hold in a tested chapter (`LABKIT_FINDINGS=strict`), and the
            machine was quiet enough to tell or the claim has no figures.
    """
    others = _measurement.others()
    if holds:
        print(f"✓ {claim}")
    else:
        _missed(claim, figures, others)


def settle(claim: str, outcome: Outcome, **figures: Figure) -> None:
    """Print a claim with the outcome of `labkit.figures.verdict`; "not settled in this run" is an answer too.

    Figures and errors are as in `finding`.
    """
    if outcome == "inconclusive":
        print(f"? not settled in this run: {claim}")
    else:
        finding(claim, outcome == "holds", **figures)


def guessed(guess: object, measured: float, unit: str) -> None:
    """Show a prediction beside the measured figure; `...` stands for no prediction."""
    print(f"{_prediction(guess, unit)}; just now it was {measured:,.4g} {unit}.")


def _prediction(guess: object, unit: str) -> str:
    if isinstance(guess, EllipsisType):
        return "You made no guess"
    try:
        return f"You guessed {float(guess):g} {unit}"  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return f"A guess is a number without a unit, not {reprlib.repr(guess)}"


def _missed(claim: str, figures: dict[str, Figure], others: float) -> None:
    details = [f"{name} {_text(figure)}" for name, figure in figures.items()]
    if busy := bool(figures) and others > QUIET:
        details.append(f"others used {others:.0%} of the cores")
    line = " — ".join([claim, ", ".join(details)]) if details else claim
    if os.environ.get(MODE) != "strict":
        print(f"not in this run: {line}")
    elif busy:
        print(f"inconclusive: {line}")
    else:
        raise AssertionError(f"not in this run: {line}")


def _text(figure: Figure) -> str:
    if isinstance(figure, str):
        return figure
    return f"{figure:,.0f}" if isinstance(figure, int) or abs(figure) >= 1000 else f"{figure:.4g}"
