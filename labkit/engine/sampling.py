"""Chooses the next token from a model's logits, repeatably from a seed."""

import torch
from torch import Tensor

GREEDY_BELOW = 1e-5  # a smaller temperature draws the same token, if its division does not overflow


class Sampler:
    """Draws token ids; two samplers with the same settings and seed draw the same ids from the same logits.

    ``temperature`` 0 takes the likeliest token. ``top_k`` keeps the k likeliest tokens (0: off). ``top_p``
    keeps the fewest likeliest tokens whose chances, after temperature and top_k, reach p together (1.0: off;
    nucleus sampling, Holtzman et al., 2020). Raises ValueError for settings out of range.
    """

    def __init__(self, temperature: float = 0.8, top_k: int = 0, top_p: float = 1.0, seed: int = 0) -> None:
        if temperature < 0 or top_k < 0 or not 0 < top_p <= 1:
            raise ValueError(f"out of range: {temperature=}, {top_k=} or {top_p=} (above 0, at most 1)")
        self.temperature, self.top_k, self.top_p = temperature, top_k, top_p
        self._generator = torch.Generator().manual_seed(seed)

    @torch.inference_mode()
    def sample(self, logits: Tensor) -> int:
        """Return a token id for logits [V]."""
        if self.temperature < GREEDY_BELOW:
            return int(logits.argmax())
        if not self.top_k and self.top_p == 1:
            return self._draw(self._chances(logits))
        # sorted, so that both limits are a cut of the tail
        best, ids = logits.topk(min(self.top_k or len(logits), len(logits)))
        chances = self._chances(best)
        if self.top_p < 1:
            before = chances.cumsum(0) - chances
            chances = chances[before < self.top_p]
        return int(ids[self._draw(chances)])

    def _chances(self, logits: Tensor) -> Tensor:
        return (logits / self.temperature).softmax(dim=0)

    def _draw(self, chances: Tensor) -> int:
        return int(torch.multinomial(chances, 1, generator=self._generator))
