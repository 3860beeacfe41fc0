"""A model of any size with random weights from a seed: it writes nonsense, at the cost of a trained one."""

import torch

from labkit.models.text import TextConfig, TextModel

EMBEDDING_STD = 0.3  # as training begins


@torch.no_grad()
def seeded(config: TextConfig, seed: int) -> TextModel:
    """Return a model whose every matrix is random, and the same for the same seed.

    The numbers fit into bfloat16, so that ``TextModel.save`` loses none of them.
    """
    generator = torch.Generator().manual_seed(seed)
    model = TextModel(config).eval().requires_grad_(False)
    for weight in model.parameters():
        std = EMBEDDING_STD if weight is model.embed.weight else weight.shape[1] ** -0.5
        weight.copy_(weight.normal_(std=std, generator=generator).bfloat16())
    return model
