"""The cost model: it adds up its terms, and a fit finds the cost behind measurements."""

from pathlib import Path
from random import Random

import numpy as np
import pytest

from labkit.sim.cost import Cost, Load, _nonnegative, fit

COST = Cost(t0=1e-3, decode=6e-5, prefill=2.5e-5, attend=2e-8, read=4e-7, swap=1e-6)


def loads(count: int, seed: int = 1) -> list[Load]:
    """Iterations as an engine has them: decodes, chunks of prompts, both, and now and then a swap."""
    rng = Random(seed)
    loads: list[Load] = []
    for _ in range(count):
        decodes = rng.choice([0, 1, 4, 16, 64])
        prefill = rng.choice([0, 0, 16, 128]) if decodes else 128
        start = rng.choice([0, 128, 512])
        ends = [rng.randint(20, 300) for _ in range(decodes)]
        attended = sum(ends) + prefill * start + prefill * (prefill + 1) // 2
        kv_tokens = sum(ends) + (start + prefill if prefill else 0)
        loads.append(Load(prefill, decodes, attended, kv_tokens, rng.choice([0, 0, 0, 400])))
    return loads


def figures(cost: Cost) -> list[float]:
    return [getattr(cost, name) for name in Cost.__struct_fields__]


def test_an_iteration_costs_the_sum_of_its_terms() -> None:
    cost = Cost(t0=1, decode=10, prefill=100, attend=1_000, read=10_000, swap=100_000)
    assert cost.seconds(Load(prefill=2, decodes=3, attended=4, kv_tokens=5, swapped=6)) == 654_231
    assert cost.seconds(Load()) == 1


def test_fit_finds_the_cost_behind_the_measurements() -> None:
    cost = fit((load, COST.seconds(load)) for load in loads(300))
    assert figures(cost) == pytest.approx(figures(COST), rel=1e-3)


def test_fit_is_not_led_astray_by_iterations_that_were_held_up() -> None:
    """One iteration in five takes up to twenty times as long; the others are off by 5 %."""
    rng = Random(2)

    def measured(load: Load) -> float:
        held_up = rng.uniform(2, 20) if rng.random() < 0.2 else 1
        return COST.seconds(load) * rng.uniform(0.95, 1.05) * held_up

    cost = fit([(load, measured(load)) for load in loads(1_000)])
    errors = [cost.seconds(load) / COST.seconds(load) - 1 for load in loads(200, seed=3)]
    assert max(map(abs, errors)) < 0.05


def test_short_iterations_count_as_much_as_long_ones() -> None:
    """Ten decode steps of 1 ms, and forty prompts that take 50 ms more than their tokens explain."""
    step = Load(decodes=1)
    prompts = [(Load(prefill=n), 0.05 + n * 1e-3) for n in (100, 200, 300, 400)] * 10
    assert fit([(step, 1e-3)] * 10 + prompts).seconds(step) == pytest.approx(1e-3, rel=0.05)


def test_no_term_is_negative_where_plain_least_squares_would_make_it_so() -> None:
    """Noise can make prompts seem to cost less than nothing."""
    measured = [(Load(decodes=n), 1e-3 + n * 1e-4) for n in (1, 2, 4, 8)]
    measured += [(Load(decodes=n, prefill=10), 0.9e-3 + n * 1e-4) for n in (1, 2, 4, 8)]
    cost = fit(measured)
    assert cost.prefill == 0
    assert min(figures(cost)) >= 0
    assert cost.decode == pytest.approx(1e-4, rel=0.2)


def test_nonnegative_least_squares_is_the_best_there_is() -> None:
    """The conditions of Karush, Kuhn, Tucker: no slope along a term in use, none down along one at 0."""
    rng = np.random.default_rng(4)
    zeros = 0
    for _ in range(50):
        terms, aim = rng.normal(size=(20, 4)), rng.normal(size=20)
        solution = _nonnegative(terms, aim)
        slope = terms.T @ (terms @ solution - aim)
        positive = solution > 0
        assert np.abs(slope[positive]).max(initial=0) < 1e-9
        assert slope[~positive].min(initial=0) > -1e-9
        zeros += int((~positive).sum())
    assert zeros > 50, "cases in which it matters"


def test_a_term_without_measurements_is_0() -> None:
    assert fit([(Load(decodes=n), 1e-3 + n * 1e-4) for n in (1, 2, 4)]).swap == 0


@pytest.mark.parametrize("measured", [[], [(Load(decodes=1), 0.0)], [(Load(decodes=1), -1.0)]])
def test_a_fit_without_usable_measurements_is_an_error(measured: list[tuple[Load, float]]) -> None:
    with pytest.raises(ValueError, match="at least one iteration"):
        fit(measured)


def test_a_cost_is_kept_in_a_file(tmp_path: Path) -> None:
    COST.save(tmp_path / "cost.json")
    assert Cost.load(tmp_path / "cost.json") == COST


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cost.json: "),
        ('{"t0": 1}', "decode"),
        ('{"t0": -1, "decode": 0, "prefill": 0, "attend": 0, "read": 0, "swap": 0}', r"\$\.t0"),
        ('{"t0": 1, "decode": 0, "prefill": 0, "attend": 0, "read": 0, "swap": 0, "gpu": 1}', "gpu"),
    ],
)
def test_a_file_without_a_cost_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "cost.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        Cost.load(path)
