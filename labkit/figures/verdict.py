"""Verdicts on claims about noisy figures: a ratio, its interval, and whether that settles a claim.

A figure that was measured a few times on a shared machine is a sample. The interval is a percentile bootstrap
(Efron, 1979) of the ratio of medians. A claim holds or fails where the whole interval lies on one side of the
bound. Otherwise it is inconclusive, which is a result and not an error.

    ratio(rest_ms, sse_ms).above(2.0)  # "holds", "fails" or "inconclusive"
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
    """One median over another. 95 % of the resampled ratios lie between `low` and `high`."""

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
        paired: the n-th value of both was measured under one condition (one round, one seed). The result is
            the median of the pairs' ratios; its interval is narrower where the conditions vary a lot.

    Raises:
        ValueError: there are fewer than three values, one is not above 0, or the pairs do not match.
    """
    if min(len(values), len(others)) < 3 or min(*values, *others) <= 0:
        raise ValueError("a ratio takes at least three values above 0 of each")
    rng = random.Random(seed)
    if paired:
        pairs = [a / b for a, b in zip(values, others, strict=True)]
        ratios = sorted(median(rng.choices(pairs, k=len(pairs))) for _ in range(RESAMPLES))
        return _between(median(pairs), ratios)
    ratios = sorted(_resampled(values, rng) / _resampled(others, rng) for _ in range(RESAMPLES))
    return _between(median(values) / median(others), ratios)


def _resampled(values: Sequence[float], rng: random.Random) -> float:
    return median(rng.choices(values, k=len(values)))


def _between(value: float, ratios: list[float]) -> Ratio:
    """The value with the interval that leaves out equal shares at both ends of the sorted ratios."""
    cut = round(len(ratios) * (1 - CONFIDENCE) / 2)
    return Ratio(value, ratios[cut], ratios[-1 - cut])
