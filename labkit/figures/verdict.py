"""Verdicts on claims about noisy figures: a ratio with its interval, and whether that settles the claim.

A figure measured a few times on a shared machine is a sample. The interval is a percentile bootstrap (Efron,
1979) of the ratio of medians; a claim holds or fails only where the whole interval lies on one side of it,
and is inconclusive otherwise, which is a result and not an error.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

RESAMPLES = 2_000
CONFIDENCE = 0.95

Outcome = Literal["holds", "fails", "inconclusive"]


@dataclass(frozen=True)
class Ratio:
    """How many times as large one median is as another, and where 95 % of the resampled ratios lie."""

    value: float
    low: float
    high: float

    def above(self, bound: float) -> Outcome:
        """Whether the ratio is above a bound."""
        if self.low > bound:
            return "holds"
        return "fails" if self.high < bound else "inconclusive"

    def below(self, bound: float) -> Outcome:
        """Whether the ratio is below a bound."""
        if self.high < bound:
            return "holds"
        return "fails" if self.low > bound else "inconclusive"

    def __str__(self) -> str:
        return f"{self.value:.2f}× (95 %: {self.low:.2f}–{self.high:.2f})"


def ratio(values: Sequence[float], others: Sequence[float], *, paired: bool = False, seed: int = 0) -> Ratio:
    """The ratio of the medians of `values` and `others`, both above 0.

    Args:
        paired: the n-th of both were measured under one condition (one round, one seed): the median of their
            ratios, which is narrower where the conditions vary more than the figures.

    Raises:
        ValueError: fewer than three values, some not above 0, or pairs that do not match.
    """
    if min(len(values), len(others)) < 3 or min(*values, *others) <= 0:
        raise ValueError("a ratio takes three values above 0 of each, at least")
    rng = random.Random(seed)
    if paired:
        pairs = [a / b for a, b in zip(values, others, strict=True)]
        found = sorted(median(rng.choices(pairs, k=len(pairs))) for _ in range(RESAMPLES))
        return _between(median(pairs), found)
    found = sorted(_resampled(values, rng) / _resampled(others, rng) for _ in range(RESAMPLES))
    return _between(median(values) / median(others), found)


def _resampled(values: Sequence[float], rng: random.Random) -> float:
    return median(rng.choices(values, k=len(values)))


def _between(value: float, found: list[float]) -> Ratio:
    cut = round(len(found) * (1 - CONFIDENCE) / 2)
    return Ratio(value, found[cut], found[-1 - cut])
