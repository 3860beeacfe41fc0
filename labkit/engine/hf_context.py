"""How long a text a Hugging Face model can compute: what its configuration says, and what it does."""

from bisect import bisect_left
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

LIMITS = (
    "max_position_embeddings",
    "max_seq_len",
    "max_seq_length",
    "max_sequence_length",
    "max_target_positions",
    "n_positions",
    "n_ctx",
    "seq_length",
    "context_length",
)
"""The names by which configurations keep the limit."""


def longest(model: Any, most: int, layers: int) -> int:
    """The most tokens of a text that the model computes, up to `most`.

    The configuration is believed where it names a limit: many models compute beyond it, but no longer well.
    The model is asked as well, since a limit may be written nowhere. It is asked on the CPU, where a place
    that it does not have is an error; on a GPU it would end the process's use of the GPU.

    Args:
        layers: how many layers keep keys and values.
    """
    most = min([most, *_written(model.config), *_written(model.config.get_text_config(decoder=True))])

    def fails(tokens: int) -> bool:
        return not _computes(model, tokens, layers)

    if not fails(most) or fails(1):
        return most
    return bisect_left(range(1, most + 1), True, key=fails)


def _written(config: Any) -> list[int]:
    values = [getattr(config, name, None) for name in LIMITS]
    return [value for value in values if isinstance(value, int) and value > 0]


@torch.inference_mode()
def _computes(model: Any, tokens: int, layers: int) -> bool:
    """Whether the model computes the last token of a text of so many."""
    cache = DynamicCache()
    cache.layers = [_Blank(tokens - 1) for _ in range(layers)]
    token = torch.zeros(1, 1, dtype=torch.long)
    try:
        model(token, past_key_values=cache, use_cache=True)
    except Exception:
        return False
    return True


class _Blank(DynamicLayer):  # type: ignore[no-untyped-call]
    """Stands for keys and values of a text of `length` tokens that was read, and keeps none of its own.

    The zeros of all positions but the last are one number in memory until the model reads them.
    """

    def __init__(self, length: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._length = length

    def get_seq_length(self) -> int:
        return self._length

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        return self._behind(key_states), self._behind(value_states)

    def _behind(self, new: Tensor) -> Tensor:
        before = new.new_zeros(()).expand(*new.shape[:-2], self._length, new.shape[-1])
        return torch.cat([before, new], dim=-2)
