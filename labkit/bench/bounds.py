"""What bounds a pass of a model: reading its weights, multiplying by them, or starting operations."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Floors:
    """The least time that each part of one pass takes on this machine, in CPU seconds, as just measured.

    `products_s` includes the reading of the weights. `operations` counts the PyTorch operations that labkit's
    pass starts; `starting_s` is the time of one that computes almost nothing.
    """

    weights_bytes: int
    reading_s: float
    flops: int
    products_s: float
    operations: int
    starting_s: float

    @property
    def gigabytes_s(self) -> float:
        return self.weights_bytes / self.reading_s / 1e9

    @property
    def gflops_s(self) -> float:
        return self.flops / self.products_s / 1e9


@dataclass(frozen=True)
class Bound:
    """The part that takes most of a pass, and its share of the pass's time (0 to 1).

    `products` are multiplications at the library's speed. `weights` are the same where reading the weights
    alone takes more than half of that time. `dispatch` is the starting of operations. Attention, sampling and
    the interpreter are in none of these, so they bound a row whose share is small.
    """

    by: str
    share: float


def bound_of(floors: Floors, pass_s: float, counted: bool) -> Bound:
    """Return what bounds a pass of `pass_s` CPU seconds.

    Args:
        counted: whether `floors.operations` counts this pass's operations; only labkit's are counted.
    """
    dispatch_s = floors.operations * floors.starting_s
    if counted and dispatch_s > floors.products_s:
        return Bound("dispatch", dispatch_s / pass_s)
    by = "weights" if floors.reading_s > floors.products_s / 2 else "products"
    return Bound(by, floors.products_s / pass_s)
