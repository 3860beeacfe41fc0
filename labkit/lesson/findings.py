"""Findings of a chapter: one sentence on what was measured just now."""

from types import EllipsisType

from labkit.figures.verdict import Outcome


def finding(claim: str, holds: bool) -> None:
    """State what was measured just now, or say that this run did not show it.

    Raises:
        AssertionError: it did not hold; run the measuring cell again, on a quieter machine if you can.
    """
    if not holds:
        raise AssertionError(f"not in this run: {claim}")
    print(f"✓ {claim}")


def settle(claim: str, outcome: Outcome) -> None:
    """State what `labkit.figures.verdict` made of a claim; that this run does not settle it is an answer too.

    Raises:
        AssertionError: the claim fails in this run.
    """
    if outcome == "fails":
        raise AssertionError(f"refuted in this run: {claim}")
    print(f"{'✓' if outcome == 'holds' else '? not settled in this run:'} {claim}")


def guessed(guess: float | EllipsisType, measured: float, unit: str) -> None:
    """Hold a prediction against what was measured just now; `...` is one that was not made."""
    told = "You made no guess" if isinstance(guess, EllipsisType) else f"You guessed {guess:g} {unit}"
    print(f"{told}; just now it was {measured:,.4g} {unit}.")
