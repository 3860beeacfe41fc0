"""The sampler: which tokens it may draw, how often, and that a seed repeats."""

import numpy as np
import pytest
import torch
from torch import Tensor

from labkit.engine.sampling import Sampler, sample

DRAWS = 3000


def drawn_by(sampler: Sampler, logits: Tensor) -> int:
    return sample(logits[None], [sampler])[0]


def logits_of(size: int = 50, seed: int = 0) -> Tensor:
    return 2 * torch.randn(size, generator=torch.Generator().manual_seed(seed))


def expected(logits: Tensor, temperature: float, top_k: int, top_p: float) -> np.ndarray:
    """The chance of each token, written down without torch."""
    scaled = logits.double().numpy() / temperature
    order = np.argsort(-scaled)
    if top_k:
        order = order[:top_k]
    chances = np.exp(scaled[order] - scaled[order].max())
    chances /= chances.sum()
    count = 1
    while chances[:count].sum() < top_p and count < len(chances):
        count += 1
    result = np.zeros(len(scaled))
    result[order[:count]] = chances[:count] / chances[:count].sum()
    return result


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"),
    [
        (1.0, 0, 1.0),
        (0.5, 0, 1.0),
        (2.0, 0, 1.0),
        (1.0, 5, 1.0),
        (1.0, 1, 1.0),
        (1.0, 500, 1.0),
        (1.0, 0, 0.7),
        (0.8, 0, 0.01),
        (1.5, 8, 0.9),
    ],
)
def test_draws_follow_the_distribution(temperature: float, top_k: int, top_p: float) -> None:
    logits = logits_of()
    chances = expected(logits, temperature, top_k, top_p)
    sampler = Sampler(temperature, top_k, top_p, seed=11)
    drawn = np.bincount([drawn_by(sampler, logits) for _ in range(DRAWS)], minlength=len(logits))
    assert set(np.flatnonzero(drawn)) <= set(np.flatnonzero(chances))
    assert set(np.flatnonzero(chances > 0.005)) <= set(np.flatnonzero(drawn))
    assert np.abs(drawn / DRAWS - chances).max() < 4 * np.sqrt(0.25 / DRAWS)


def test_zero_temperature_is_greedy_with_any_other_setting() -> None:
    for seed in range(20):
        logits = logits_of(seed=seed)
        best = int(np.argmax(logits.numpy()))
        assert drawn_by(Sampler(0, 0, 1.0, seed), logits) == best
        assert drawn_by(Sampler(0, 3, 0.5, seed), logits) == best


def test_tiny_temperature_does_not_overflow() -> None:
    logits = logits_of()
    assert drawn_by(Sampler(1e-40, 0, 1.0, 0), logits) == int(logits.argmax())


@pytest.mark.parametrize("top_p", [5e-324, 1e-300, 1e-46, 1e-30, 1e-9])
@pytest.mark.parametrize("temperature", [0.0, 1e-300, 0.01, 0.8, 2.0])
def test_the_least_share_keeps_the_likeliest(temperature: float, top_p: float) -> None:
    rows = torch.stack([logits_of(seed=n) for n in range(3)])
    best = int(rows[1].argmax())
    drawn = [sample(rows, [Sampler(), Sampler(temperature, 0, top_p, n), Sampler(0)]) for n in range(20)]
    assert [ids[1] for ids in drawn] == [best] * 20


@pytest.mark.parametrize("temperature", [1e10, 1e39, 1e300])
def test_a_high_temperature_draws_any_token_but_those_that_are_ruled_out(temperature: float) -> None:
    logits = logits_of(size=4)
    logits[2] = -torch.inf
    assert {drawn_by(Sampler(temperature, seed=n), logits) for n in range(100)} == {0, 1, 3}


@pytest.mark.parametrize("setting", ["temperature", "top_p"])
@pytest.mark.parametrize("value", [float("nan"), -0.1])
def test_a_setting_that_is_no_number_or_too_low_is_refused(setting: str, value: float) -> None:
    with pytest.raises(ValueError, match=setting):
        Sampler(temperature=value) if setting == "temperature" else Sampler(top_p=value)


@pytest.mark.parametrize("settings", [(0,), (1.0,), (1.0, 5), (1.0, 0, 0.5), (1.0, 0, 1e-300)])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("beside", [0.0, 1.0])
def test_logits_without_a_likeliest_are_refused_before_anyone_draws(
    settings: tuple[float, int, float], value: float, beside: float
) -> None:
    rows = torch.stack([logits_of(seed=n) for n in range(2)])
    rows[1] = torch.full_like(rows[1], value)
    if value > 0:
        rows[1, 5:] = 0.0
    samplers = [Sampler(beside, seed=4), Sampler(*settings)]
    with pytest.raises(FloatingPointError, match="not finite"):
        sample(rows, samplers)
    assert [sampler.draw() for sampler in samplers] == [Sampler(seed=seed).draw() for seed in (4, 0)]


@pytest.mark.parametrize(("top_k", "top_p"), [(0, 1.0), (10, 1.0), (0, 0.9), (10, 0.9)])
def test_seed_repeats_and_other_seeds_differ(top_k: int, top_p: float) -> None:
    def draws(seed: int) -> list[int]:
        sampler = Sampler(1.0, top_k, top_p, seed)
        torch.rand(seed + 1)  # the global generator has no part in it
        return [drawn_by(sampler, logits_of(seed=n)) for n in range(50)]

    assert draws(4) == draws(4)
    assert draws(4) != draws(5)


def test_logits_are_left_alone() -> None:
    rows = torch.stack([logits_of(seed=n) for n in range(3)])
    before = rows.clone()
    sample(rows, [Sampler(0.7, 5, 0.9), Sampler(1.0), Sampler(0)])
    sample(rows, [Sampler(0)] * 3)
    assert torch.equal(rows, before)


@pytest.mark.parametrize(("temperature", "top_k", "top_p"), [(-1, 0, 1), (1, -1, 1), (1, 0, 0), (1, 0, 1.1)])
def test_settings_out_of_range_are_refused(temperature: float, top_k: int, top_p: float) -> None:
    with pytest.raises(ValueError, match="out of range"):
        Sampler(temperature, top_k, top_p, 0)


SETTINGS = [(0.0, 0, 1.0), (0.8, 0, 1.0), (1.5, 3, 1.0), (1.0, 0, 0.5), (0.7, 9, 0.9), (0.0, 5, 0.5)]


def test_rows_do_not_change_each_other() -> None:
    rows = torch.stack([logits_of(seed=n) for n in range(len(SETTINGS))])
    together = [Sampler(*setting, seed=n) for n, setting in enumerate(SETTINGS)]
    alone = [Sampler(*setting, seed=n) for n, setting in enumerate(SETTINGS)]
    for _ in range(50):
        assert sample(rows, together) == [
            drawn_by(sampler, row) for row, sampler in zip(rows, alone, strict=True)
        ]


def test_a_sequence_draws_once_a_token_in_any_company() -> None:
    def draws(beside: list[float]) -> list[int]:
        sampler = Sampler(1.0, 0, 1.0, seed=3)
        others = [Sampler(temperature, seed=9) for temperature in beside]
        rows = torch.stack([logits_of(seed=n) for n in range(1 + len(beside))])
        return [sample(rows, [sampler, *others])[0] for _ in range(20)]

    assert draws([]) == draws([0.0]) == draws([2.0, 0.0, 0.3])


def test_greedy_takes_the_likeliest_beside_others_and_alone() -> None:
    rows = torch.stack([logits_of(seed=n) for n in range(3)])
    best = rows.argmax(dim=-1).tolist()
    assert sample(rows, [Sampler(0)] * 3) == best
    mixed = sample(rows, [Sampler(0), Sampler(2.0), Sampler(0)])
    assert [mixed[0], mixed[2]] == [best[0], best[2]]


def test_no_rows_give_no_ids() -> None:
    assert sample(torch.empty(0, 50), []) == []


def test_bfloat16_logits_are_sampled_too() -> None:
    logits = logits_of().bfloat16()
    drawn = {drawn_by(Sampler(2.0, 2, seed=n), logits) for n in range(40)}
    assert drawn == set(logits.topk(2).indices.tolist())
