"""Measures the least time of each part of a model's pass: reading, multiplying, starting operations.

All times are CPU seconds of the calling thread, the least of several.
"""

from collections.abc import Callable
from time import process_time_ns
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from labkit.models.layouts import Shape, fastest, regime

REPEATS, CALLS = 5, 4
LEAST_NS = 100_000


@torch.inference_mode()
def reading_s(weights_bytes: int) -> float:
    """Seconds to read this many bytes once, from the cache or memory that holds them on this machine."""
    numbers = torch.ones(weights_bytes // 4)
    return _least_s(lambda: torch.dot(numbers, numbers))


@torch.inference_mode()
def products_s(shapes: tuple[Shape, ...], rows: int) -> float:
    """Seconds to multiply this many rows by the weights [N, K] of a pass, one after another.

    The weights have labkit's layouts, and come from cache or memory as in a pass.
    """
    choices = fastest(shapes, torch.get_num_threads())
    products = [choices[shape][regime(rows)](torch.rand(shape) - 0.5) for shape in shapes]
    inputs = [torch.rand(rows, inputs) - 0.5 for _, inputs in shapes]
    return _least_s(lambda: [product(x) for product, x in zip(products, inputs, strict=True)])


@torch.inference_mode()
def starting_s() -> float:
    """Seconds that an operation takes that computes almost nothing."""
    number, out = torch.ones(1), torch.ones(1)
    return _least_s(lambda: torch.neg(number, out=out))


def operations(run: Callable[[], object]) -> int:
    """How many of PyTorch's operations a call starts; views count, since they cost nearly as much."""
    counter = _Counter()  # type: ignore[no-untyped-call]
    with counter:
        run()
    return counter.count


def _least_s(run: Callable[[], object]) -> float:
    """The least time of a call, in runs long enough for the clock."""
    calls = CALLS
    while (first_ns := _ns(run, calls)) < LEAST_NS:
        calls *= 2
    return min(first_ns, *(_ns(run, calls) for _ in range(REPEATS))) / calls / 1e9


def _ns(run: Callable[[], object], calls: int) -> int:
    begun = process_time_ns()
    for _ in range(calls):
        run()
    return process_time_ns() - begun


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))
