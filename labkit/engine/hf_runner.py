"""The runner of a Hugging Face model: it computes one sequence after the other."""

import inspect
from collections.abc import Sequence as Many
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import DynamicCache

from labkit.engine.runner import SampledSequence, probe
from labkit.engine.sampling import sample
from labkit.engine.scheduler import BLOCK
from labkit.engine.sequence import Sequence
from labkit.engine.work import Work

Layers = list[tuple[Tensor, Tensor]]
"""The keys and values of each layer, both [1, heads, positions, dim]."""


class HFRunner:
    """Computes one sequence after the other. Each has its own cache, which grows with it.

    Caches of different lengths do not fit into one tensor. If they were padded, every sequence would cost as
    much as the longest, and all would be copied whenever one comes or goes. So here many streams share the
    speed of one, whereas the shipped model (`labkit.engine.runner`) computes them in one pass.

    Every layer keeps all positions, also one with a sliding window, because the scheduler counts them all.

    Args:
        model: a `…ForCausalLM` of Transformers.
        prefix_tokens: the size of the prefix cache.
    """

    def __init__(self, model: Any, prefix_tokens: int = 0) -> None:
        self._model = model
        # only the logits of the last position are used; without this option the model computes all
        parameters = inspect.signature(model.forward).parameters
        self._options = {"logits_to_keep": 1} if "logits_to_keep" in parameters else {}
        self._caches: WeakKeyDictionary[Sequence, DynamicCache] = WeakKeyDictionary()
        self._store: dict[Sequence, Layers] = {}
        self._blocks: list[Layers] = [[]] * (prefix_tokens // BLOCK)

    @torch.inference_mode()
    def run(self, work: Many[Work]) -> list[int | None]:
        # an evicted sequence loses its cache; the cache of one that has ended goes with it (weak keys)
        for sequence in [sequence for sequence in self._caches if sequence.slot is None]:
            del self._caches[sequence]
        try:
            return self._run(work)
        except Exception:
            self._undo(work)
            raise

    def _run(self, work: Many[Work]) -> list[int | None]:
        rows = [self._compute(sequence, tokens) for sequence, tokens in work]
        due = [n for n, (sequence, tokens) in enumerate(work) if tokens == sequence.pending]
        chosen: list[int | None] = [None] * len(work)
        if due:
            samplers = [cast(SampledSequence, work[n][0]).sampler for n in due]
            tokens = sample(torch.stack([rows[n] for n in due]), samplers)
            for n, token in zip(due, tokens, strict=True):
                chosen[n] = token
        return chosen

    def _compute(self, sequence: Sequence, tokens: int) -> Tensor:
        """Compute the next `tokens` of a sequence; return the logits [V] after the last of them."""
        start = sequence.computed
        if start == 0:
            self._caches[sequence] = DynamicCache()
        ids = torch.tensor([sequence.tokens[start : start + tokens]], device=self._model.device)
        cache = self._caches[sequence]
        logits: Tensor = self._model(ids, past_key_values=cache, use_cache=True, **self._options).logits
        return logits[0, -1]

    def _undo(self, work: Many[Work]) -> None:
        """Cut off what a pass that raised has added to caches; it may have come to some of the layers."""
        for sequence, _ in work:
            cache = self._caches.get(sequence)
            for layer in [] if cache is None else cast(Any, cache.layers):
                if (more := layer.get_seq_length() - sequence.computed) > 0:
                    layer.crop(-more)

    def check(self, slot: int) -> None:
        self.run([(probe(slot), 1)])

    def swap_out(self, sequence: Sequence) -> None:
        self._store[sequence] = _copy(self._caches.pop(sequence), 0, sequence.computed, "cpu")

    def swap_in(self, sequence: Sequence) -> None:
        device = self._model.device
        layers = self._store.pop(sequence)
        self._caches[sequence] = DynamicCache([(k.to(device), v.to(device)) for k, v in layers])

    def forget(self, sequence: Sequence) -> None:
        self._store.pop(sequence, None)
        self._caches.pop(sequence, None)

    def keep_blocks(self, sequence: Sequence, copies: Many[tuple[int, int]]) -> None:
        cache = self._caches[sequence]
        for number, place in copies:
            self._blocks[place] = _copy(cache, number * BLOCK, (number + 1) * BLOCK, self._model.device)

    def use_blocks(self, sequence: Sequence, places: Many[int]) -> None:
        layers = zip(*(self._blocks[place] for place in places), strict=True)
        joined = [tuple(torch.cat(parts, dim=2) for parts in zip(*layer, strict=True)) for layer in layers]
        self._caches[sequence] = DynamicCache(joined)


def _copy(cache: DynamicCache, start: int, end: int, device: Any) -> Layers:
    """A copy of the positions `start` to `end` of a cache."""
    both = [(layer.keys[:, :, start:end], layer.values[:, :, start:end]) for layer in cast(Any, cache.layers)]
    return [(k.to(device, copy=True), v.to(device, copy=True)) for k, v in both]
