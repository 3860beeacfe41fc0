"""Chooses the next token of each sequence from a model's logits; the same seed chooses the same tokens."""

import math
import random
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

GREEDY_BELOW = 1e-5
"""Below it, dividing by the temperature may overflow, and the likeliest token wins anyway."""
FLAT_ABOVE = 1e30
"""Above it, the temperature may be infinite in float32, and all tokens are equally likely anyway."""


class Sampler:
    """How one sequence draws. Two with the same settings and seed draw the same ids from the same logits.

    Args:
        temperature: divides the logits; 0 takes the likeliest token.
        top_k: keep the k likeliest tokens; 0 keeps all.
        top_p: keep the fewest likeliest tokens whose probabilities, after temperature and top_k, sum to p
            (nucleus sampling, Holtzman et al., 2020); 1.0 keeps all.

    Raises:
        ValueError: a setting is out of range.
    """

    def __init__(self, temperature: float = 0.8, top_k: int = 0, top_p: float = 1.0, seed: int = 0) -> None:
        if not temperature >= 0 or top_k < 0 or not 0 < top_p <= 1:
            raise ValueError(f"out of range: {temperature=}, {top_k=} or {top_p=} (above 0, at most 1)")
        self.temperature, self.top_k, self.top_p = min(temperature, FLAT_ABOVE), top_k, top_p
        self._random = random.Random(seed)

    @property
    def greedy(self) -> bool:
        return self.temperature < GREEDY_BELOW

    def draw(self) -> float:
        """The sequence's next random number u, 0 <= u < 1."""
        return self._random.random()


@torch.inference_mode()
def sample(logits: Tensor, samplers: Sequence[Sampler]) -> list[int]:
    """Return a token id for each row of logits [N, V]. No row has an effect on another.

    A logit may be minus infinity: its token is never chosen.

    Raises:
        FloatingPointError: a logit is NaN or infinity, or a row has no other than minus infinity. No sampler
            has drawn then.
    """
    if all(sampler.greedy for sampler in samplers):
        best = logits.max(dim=-1)  # three times faster than argmax
        _check(best.values.tolist())
        ids: list[int] = best.indices.tolist()
        return ids
    scale = [1.0 if sampler.greedy else sampler.temperature for sampler in samplers]
    scaled = logits.float() / torch.tensor(scale, device=logits.device)[:, None]
    for row, sampler in enumerate(samplers):
        if sampler.greedy:
            scaled[row] = _only(scaled[row], scaled[row].argmax()[None])
        elif sampler.top_k or sampler.top_p < 1:
            scaled[row] = _limited(scaled[row], sampler)
    sums = scaled.softmax(dim=-1, dtype=torch.float64).cumsum(dim=-1)
    totals: list[float] = sums[:, -1].tolist()
    _check(totals)
    draws = [[sampler.draw() * total] for sampler, total in zip(samplers, totals, strict=True)]
    # The first id whose sum is above the draw. An id of probability 0 has the sum of the id before it, so it
    # is never the first.
    places = torch.tensor(draws, device=logits.device, dtype=torch.float64)
    chosen: list[int] = torch.searchsorted(sums, places, right=True)[:, 0].tolist()
    return chosen


def _check(numbers: Iterable[float]) -> None:
    """Refuse NaN and infinity, which the greatest logit or the sum of a row's chances is if a logit is."""
    if not all(map(math.isfinite, numbers)):
        raise FloatingPointError("a logit is not finite: check the model's weights, or use dtype=float32")


def _limited(logits: Tensor, sampler: Sampler) -> Tensor:
    """The logits [V], with minus infinity for the tokens that top_k and top_p leave out."""
    # in descending order, each limit cuts off the tail
    best, ids = logits.topk(min(sampler.top_k or len(logits), len(logits)))
    chances = best.softmax(dim=-1)
    kept = chances.cumsum(dim=-1) - chances < sampler.top_p
    kept[0] = True  # also where top_p is 0 in float32
    return _only(logits, ids[kept])


def _only(logits: Tensor, ids: Tensor) -> Tensor:
    return torch.full_like(logits, -torch.inf).index_copy_(0, ids, logits[ids])
