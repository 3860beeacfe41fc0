"""Checks whether a text's bits depend on its batch with the libraries of this machine."""

from collections.abc import Sequence

import torch
from torch import Tensor

from labkit.models.ragged import KVPool, Model, Part, step

SLOTS = 6
TEXT = tuple(range(1, 23))
PIECES = ((0, 1), (1, 2), (2, 9), (9, 10), (10, 22))


@torch.inference_mode()
def depends_on_company(model: Model, rows: int) -> str | None:
    """Say what changes a text's bits although `step` computes `rows` rows at a time; None if nothing does.

    It compares keys, values and logits to the last bit in two cases: a text read whole and the same text read
    in pieces beside others; a token behind a long text alone and the same token in another slot and batch. It
    takes some 20 ms with the shipped model, and uses torch's present number of threads.
    """
    context = model.config.context
    pool = KVPool(model.config, SLOTS, like=model.embed.weight)
    text = [token % model.config.vocab_size for token in TEXT[: context - 1]]
    whole = step(model, pool, [Part(0, 0, text)], rows)[0]
    pieces = _in_pieces(model, pool, text, rows)
    if not torch.equal(pool.read(0, 0, len(text)), pool.read(3, 0, len(text))):
        return "a prompt in pieces"
    if not torch.equal(whole, pieces):
        return "the number of logits"
    for place in sorted({context // 4, context // 2, context - 1}):
        if not _same_behind(model, pool, place, rows):
            return f"a neighbour behind {place} tokens"
    return None


def _in_pieces(model: Model, pool: KVPool, text: Sequence[int], rows: int) -> Tensor:
    """The logits after a text that is read in pieces beside a longer one, in another slot."""
    logits = torch.empty(0)
    for start, end in PIECES:
        if piece := text[start:end]:
            beside = Part(1, start, [3] * len(piece))
            logits = step(model, pool, [beside, Part(3, start, piece)], rows)[-1]
    return logits


def _same_behind(model: Model, pool: KVPool, place: int, rows: int) -> bool:
    """Whether the token at a place is the same alone and as the last of several neighbours."""
    shape = pool.read(0, 0, place).shape
    noise = torch.rand(shape, generator=torch.Generator().manual_seed(place))
    pool.write(2, 0, noise.to(pool.kv))
    pool.write(SLOTS - 1, 0, noise.to(pool.kv))
    alone = step(model, pool, [Part(2, place, [5])], rows)[0]
    others = [Part(slot, min(7 * slot, place), [slot]) for slot in (0, 1, 3, 4)]
    company = step(model, pool, [*others, Part(SLOTS - 1, place, [5])], rows)[-1]
    return torch.equal(alone, company)
