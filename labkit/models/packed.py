"""The text model as a server runs it: the same numbers in fewer operations, from weights in a faster layout.

On a CPU, a small model's time goes into operations, about a microsecond each however little they compute, and
from a few rows on into products. `labkit.models.layouts` chooses the layout of each weight.

Letters for shapes: those of `labkit.models.text`.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from labkit.models.layouts import MEASURED_ROWS, Choice, Layout, Shape, WholeColumns, fastest, regime
from labkit.models.text import LAST_GAIN, Attend, Block, TextModel


class Layer(NamedTuple):
    """One layer's products: queries, keys and values; attention's output; gate and up; down."""

    qkv: Layout
    out: Layout
    gate_up: Layout
    down: Layout


class PackedModel:
    """Computes what `TextModel` does, for float32 and inference only; its weights are copies.

    Args:
        measured: whether the layout of each weight is chosen by measuring. If not, and on every device but
            the CPU, weights lie as whole columns.
    """

    def __init__(self, model: TextModel, measured: bool = True) -> None:
        self.config, self.embed, self.rotation = model.config, model.embed, model.rotation
        packed = _packed(weights(model), measured and model.embed.weight.device.type == "cpu")
        self._heads = [products.pop() for products in packed]
        self._layers = [[Layer(*four) for four in zip(*[iter(row)] * 4, strict=True)] for row in packed]

    def __call__(self, tokens: Tensor, positions: Tensor, attends: Iterable[Attend]) -> Tensor:
        """Map token ids [T] at these positions to [T, W]; every layer writes into the same scratch."""
        c, rows = self.config, len(tokens)
        x, rotation = F.embedding(tokens, self.embed.weight), self.rotation[positions]
        unit, rotated = torch.empty_like(x), x.new_empty(rows, 3, c.heads, c.head_dim)
        turned = torch.view_as_complex(rotated.view(rows, 3, c.heads, -1, 2))
        pairs = (*turned.shape, 2)
        for layer, attend in zip(self._layers[regime(rows)], attends, strict=True):
            qkv = layer.qkv(_unit(x, unit))
            torch.mul(torch.view_as_complex(qkv.view(pairs)), rotation, out=turned)
            layer.out.add(attend(rotated).reshape(x.shape), x)
            gate, up = layer.gate_up(_unit(x, unit)).chunk(2, 1)
            layer.down.add(F.silu(gate).mul_(up), x)
        return x

    def logits(self, x: Tensor) -> Tensor:
        """Map x [T, W] to the logits [T, V] of what follows each."""
        return self._heads[regime(len(x))](_unit(x, torch.empty_like(x)))


def weights(model: TextModel) -> list[Tensor]:
    """The weights [N, K] of a pass in the order of their use, scaled so that a norm is one division.

    ‖x‖ = √W · rms(x), so the weights that follow a norm are multiplied by √W.
    """
    scale = model.config.width**0.5
    layers = [_of_block(block, scale) for block in model.blocks]
    return [*(weight for layer in layers for weight in layer), model.embed.weight * (LAST_GAIN * scale)]


def _of_block(block: nn.Module, scale: float) -> list[Tensor]:
    assert isinstance(block, Block)
    return [block.qkv.weight * scale, block.out.weight, block.gate_up.weight * scale, block.down.weight]


def _packed(weights: list[Tensor], measured: bool) -> list[list[Layout]]:
    """The product of each weight [N, K], in this order, for each of `MEASURED_ROWS`."""
    shapes = tuple((len(weight), weight.shape[1]) for weight in weights)
    choices: dict[Shape, Choice] = dict.fromkeys(shapes, (WholeColumns,) * len(MEASURED_ROWS))
    if measured:
        choices = fastest(shapes, torch.get_num_threads())
    products = [_copies(weight, choices[shape]) for weight, shape in zip(weights, shapes, strict=True)]
    return [list(row) for row in zip(*products, strict=True)]


def _copies(weight: Tensor, choice: Choice) -> list[Layout]:
    """The copies of a weight for each number of rows; the same layout shares one copy."""
    copies = {layout: layout(weight) for layout in set(choice)}
    return [copies[layout] for layout in choice]


def _unit(x: Tensor, out: Tensor) -> Tensor:
    """Scale each row to a length of 1."""
    return torch.div(x, torch.linalg.vector_norm(x, 2, -1, True), out=out)
