"""Computes what the core asks for: one pass of the model over all sequences, then a token for each."""

from collections.abc import Sequence as Many
from typing import cast

import torch
from torch import Tensor

from labkit.engine.sampling import Sampler, sample
from labkit.engine.scheduler import BLOCK
from labkit.engine.sequence import Sequence
from labkit.engine.work import Work
from labkit.models.packed import PackedModel
from labkit.models.ragged import KVPool, Part, step
from labkit.models.text import TextModel


class SampledSequence(Sequence):
    """A sequence that a model continues."""

    sampler: Sampler


def probe(slot: int) -> SampledSequence:
    """A sequence that nobody asked for, of the one token 0; it shows whether a runner works."""
    sequence = SampledSequence("", [0], 1, 0.0)
    sequence.sampler, sequence.slot = Sampler(0), slot
    return sequence


class ModelRunner:
    """Holds the text model, KV for `slots` sequences, the KV of swapped ones, and the prefix cache's blocks.

    Args:
        rows: see `labkit.models.ragged.step`. If not 0, the weights' layout is fixed instead of measured.
        prefix_tokens: the size of the prefix cache.
    """

    def __init__(self, model: TextModel, slots: int, rows: int = 0, prefix_tokens: int = 0) -> None:
        self.model = PackedModel(model, measured=not rows) if _packable(model) else model
        self.rows = rows
        self.pool = KVPool(model.config, slots, like=model.embed.weight)
        self._store: dict[Sequence, Tensor] = {}
        self._blocks = [torch.empty(0)] * (prefix_tokens // BLOCK)

    def run(self, work: Many[Work]) -> list[int | None]:
        # by slot, and single tokens before longer parts: neighbours attend in one call
        order = sorted(range(len(work)), key=lambda place: (work[place][1] > 1, work[place][0].slot))
        parts = [_part(*work[place]) for place in order]
        logits = step(self.model, self.pool, parts, self.rows)
        due = [n for n, place in enumerate(order) if work[place][1] == work[place][0].pending]
        samplers = [cast(SampledSequence, work[order[n]][0]).sampler for n in due]
        tokens = sample(logits if len(due) == len(parts) else logits[due], samplers)
        chosen: list[int | None] = [None] * len(work)
        for n, token in zip(due, tokens, strict=True):
            chosen[order[n]] = token
        return chosen

    def check(self, slot: int) -> None:
        self.run([(probe(slot), 1)])

    def swap_out(self, sequence: Sequence) -> None:
        self._store[sequence] = self.pool.read(_slot(sequence), 0, sequence.computed)

    def swap_in(self, sequence: Sequence) -> None:
        self.pool.write(_slot(sequence), 0, self._store.pop(sequence))

    def forget(self, sequence: Sequence) -> None:
        self._store.pop(sequence, None)
        if sequence.slot is not None:
            # attention multiplies what the next text does not see by 0, and 0 times NaN is NaN
            self.pool.clear(sequence.slot, len(sequence.tokens))

    def keep_blocks(self, sequence: Sequence, copies: Many[tuple[int, int]]) -> None:
        for number, place in copies:
            self._blocks[place] = self.pool.read(_slot(sequence), number * BLOCK, (number + 1) * BLOCK)

    def use_blocks(self, sequence: Sequence, places: Many[int]) -> None:
        self.pool.write(_slot(sequence), 0, torch.cat([self._blocks[place] for place in places], dim=3))


def _part(sequence: Sequence, tokens: int) -> Part:
    start = sequence.computed
    return Part(_slot(sequence), start, sequence.tokens[start : start + tokens])


def _slot(sequence: Sequence) -> int:
    assert sequence.slot is not None
    return sequence.slot


def _packable(model: TextModel) -> bool:
    """Whether its weights are float32, and not quantized to 8-bit integers."""
    first = model.blocks[0]
    return model.embed.weight.dtype == torch.float32 and isinstance(first.qkv, torch.nn.Linear)
