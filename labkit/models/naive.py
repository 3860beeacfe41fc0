"""Greedy decoding without a KV cache, as in many tutorials: every token reads the whole text again."""

from collections.abc import Iterator, Sequence

import torch

from labkit.models.text import TextModel


def greedy(model: TextModel, prompts: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Yield the next token of each prompt, and so on until the context is full; all prompts are equally long.

    The work of a token grows with all that is before it, so n tokens cost in the order of n².
    """
    rows = torch.tensor(prompts)
    while rows.shape[1] <= model.config.context:
        chosen = _likeliest(model, rows)
        yield chosen[:, 0].tolist()
        rows = torch.cat([rows, chosen], dim=1)


@torch.inference_mode()
def _likeliest(model: TextModel, rows: torch.Tensor) -> torch.Tensor:
    logits = model.all_logits(rows).view(*rows.shape, -1)
    return logits[:, -1].argmax(dim=-1, keepdim=True)
