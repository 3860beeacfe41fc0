"""The layouts of a weight in memory, and which of them multiplies fastest on this machine.

Processors and their libraries differ. On one Intel Xeon (MKL, AVX-512) 8 rows went fastest through blocks of
32 columns. On one AMD EPYC (family 26) one row goes fastest through whole columns, and 32 rows go 1.3 to 1.7
times as fast through oneDNN's packed weights as through any layout that MKL reads. So `fastest` measures.

Letters for shapes: T rows, K inputs, N outputs.
"""

from collections.abc import Sequence
from functools import cache
from math import gcd
from time import perf_counter

import torch
import torch.nn.functional as F
from torch import Tensor


class Layout:
    """A copy of a weight [N, K] that rows can be multiplied by. Subclasses say how it lies."""

    def __init__(self, weight: Tensor) -> None:
        raise NotImplementedError

    def __call__(self, x: Tensor) -> Tensor:
        """Multiply x [T, K]; returns [T, N]."""
        raise NotImplementedError

    def add(self, x: Tensor, into: Tensor) -> None:
        """Add the product of x [T, K] to `into` [T, N]."""
        into.add_(self(x))


class WholeColumns(Layout):
    """The transposed weight, [K, N]: the columns of the product lie side by side."""

    def __init__(self, weight: Tensor) -> None:
        self._weight = weight.T.contiguous()

    def __call__(self, x: Tensor) -> Tensor:
        return torch.mm(x, self._weight)

    def add(self, x: Tensor, into: Tensor) -> None:
        into.addmm_(x, self._weight)


class Plain(Layout):
    """The weight as PyTorch has it, [N, K]."""

    def __init__(self, weight: Tensor) -> None:
        self._weight = weight.contiguous()

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self._weight)


class Blocks(Layout):
    """Blocks of up to 32 columns, [N/32, K, 32], each in one run of memory."""

    def __init__(self, weight: Tensor) -> None:
        columns = gcd(len(weight), 32)
        self._weight = weight.view(-1, columns, weight.shape[1]).transpose(1, 2).contiguous()

    def __call__(self, x: Tensor) -> Tensor:
        blocks = torch.bmm(x.expand(len(self._weight), -1, -1), self._weight)
        return blocks.transpose(0, 1).reshape(len(x), -1)


class OneDNN(Layout):
    """The weight as oneDNN packs it for its own kernels; PyTorch's compiler uses the same operations.

    Raises:
        RuntimeError, AttributeError: this PyTorch has no oneDNN, or has renamed these operations.
    """

    def __init__(self, weight: Tensor) -> None:
        # a weight packed for 32 rows is as fast with any number of rows from 2 on
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), 32)
        self._multiply = torch.ops.mkldnn._linear_pointwise.default

    def __call__(self, x: Tensor) -> Tensor:
        product: Tensor = self._multiply(x, self._weight, None, "none", [], "")
        return product


LAYOUTS: tuple[type[Layout], ...] = (WholeColumns, Plain, Blocks, OneDNN)
"""The simplest first: a later one has to be clearly faster."""

MEASURED_ROWS = (1, 4, 32)
GAIN = 0.75
"""A second copy of a weight is worth its memory where products take at most this share of the time."""

SECONDS, LEAST_SWEEPS, MOST_SWEEPS = 0.001, 3, 10
MEASURED_BYTES = 8 << 20

Shape = tuple[int, int]
Choice = tuple[type[Layout], ...]
"""A layout for each of `MEASURED_ROWS`."""


def regime(rows: int) -> int:
    """The index in `MEASURED_ROWS` that stands for this many rows."""
    return 0 if rows == 1 else 1 if rows < 16 else 2


@cache
def fastest(shapes: tuple[Shape, ...], threads: int) -> dict[Shape, Choice]:
    """Measure the layouts on this machine, for some ten milliseconds with a small model, once per process.

    Products are timed in the order of a pass, so that weights come from the processor's cache or memory as in
    a pass. If two layouts are about as fast, two processes may choose differently; their products then differ
    in the last bits.

    Args:
        shapes: [N, K] of every weight, in the order in which a pass reads them.
        threads: of torch, as they are set now; the key under which the result is kept.
    """
    shapes = _enough(shapes)
    weights = [torch.rand(shape) - 0.5 for shape in shapes]
    packed = {layout: copies for layout in LAYOUTS if (copies := _pack(layout, weights)) is not None}
    times = [_sweeps(packed, shapes, rows) for rows in MEASURED_ROWS]
    return {shape: _choose([by_shape[shape] for by_shape in times]) for shape in dict.fromkeys(shapes)}


def _enough(shapes: Sequence[Shape]) -> tuple[Shape, ...]:
    """The shapes of a model, or of enough of its layers to exceed any cache."""
    sample, size = [], 0
    for n, k in shapes:
        if size < MEASURED_BYTES or (n, k) not in sample:
            sample.append((n, k))
            size += 4 * n * k
    return tuple(sample)


def _pack(layout: type[Layout], weights: Sequence[Tensor]) -> list[Layout] | None:
    """The weights in this layout; None where this PyTorch cannot do it."""
    try:
        copies = [layout(weight) for weight in weights]
        copies[0](weights[0].new_zeros(2, weights[0].shape[1]))
    except (RuntimeError, AttributeError):  # NotImplementedError is a RuntimeError
        return None
    return copies


Times = dict[Shape, dict[type[Layout], float]]


def _sweeps(packed: dict[type[Layout], list[Layout]], shapes: Sequence[Shape], rows: int) -> Times:
    """The least seconds that a product of each shape took; the least leaves out busy neighbours."""
    inputs = [torch.rand(rows, k) - 0.5 for _, k in shapes]
    times: Times = {shape: dict.fromkeys(packed, float("inf")) for shape in shapes}
    end = perf_counter() + SECONDS * len(packed)
    for sweep in range(MOST_SWEEPS):
        if sweep >= LEAST_SWEEPS and perf_counter() > end:
            break
        for layout, products in packed.items():
            for product, x, shape in zip(products, inputs, shapes, strict=True):
                begun = perf_counter()
                product(x)
                times[shape][layout] = min(perf_counter() - begun, times[shape][layout])
    return times


def _choose(times: Sequence[dict[type[Layout], float]]) -> Choice:
    """The layout for each number of rows: one that is in use already, unless another gains much."""
    choice: list[type[Layout]] = []
    for seconds in times:
        present = min(choice or [LAYOUTS[0]], key=seconds.__getitem__)
        best = min(seconds, key=seconds.__getitem__)
        choice.append(best if seconds[best] < GAIN * seconds[present] else present)
    return tuple(choice)
