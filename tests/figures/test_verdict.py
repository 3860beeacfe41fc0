"""Ratios with intervals, and the claims that they settle."""

import random

import pytest

from labkit.figures.verdict import Ratio, ratio


def sample(middle: float, spread: float, count: int, seed: int) -> list[float]:
    rng = random.Random(seed)
    return [rng.gauss(middle, spread) for _ in range(count)]


def test_a_clear_difference_is_settled_either_way() -> None:
    result = ratio(sample(20, 1, 7, 1), sample(10, 0.5, 7, 2))
    assert result.low < 2 < result.high
    assert (result.above(1.5), result.above(3.0)) == ("holds", "fails")
    assert (result.below(3.0), result.below(1.5)) == ("holds", "fails")


def test_noise_settles_nothing() -> None:
    result = ratio(sample(10, 4, 5, 4), sample(10, 4, 5, 5))
    assert result.above(1.0) == result.below(1.0) == "inconclusive"


def test_the_interval_covers_the_truth_as_often_as_it_claims() -> None:
    tries = 100
    covered = 0
    for seed in range(tries):
        result = ratio(sample(20, 3, 15, seed), sample(10, 1.5, 15, seed + 1000), seed=seed)
        covered += result.low <= 2 <= result.high
    assert covered >= 0.88 * tries


def test_pairs_cancel_the_noise_that_they_share() -> None:
    shared = sample(100, 40, 9, 3)
    values, others = [2 * x + 1 for x in shared], shared
    paired, apart = ratio(values, others, paired=True), ratio(values, others)
    assert paired.high - paired.low < 0.1 * (apart.high - apart.low)


def test_the_same_samples_give_the_same_interval() -> None:
    values, others = sample(20, 3, 5, 1), sample(10, 1, 5, 2)
    assert ratio(values, others) == ratio(values, others)
    assert str(Ratio(2.0, 1.5, 2.5)) == "2.00× (95 %: 1.50–2.50)"


@pytest.mark.parametrize(
    ("values", "others", "paired"),
    [([1, 2], [1, 2, 3], False), ([1, 2, 0], [1, 2, 3], False), ([1, 2, 3, 4], [1, 2, 3], True)],
)
def test_too_few_or_unusable_values_are_refused(
    values: list[float], others: list[float], paired: bool
) -> None:
    with pytest.raises(ValueError, match=r"at least|argument 2"):
        ratio(values, others, paired=paired)
