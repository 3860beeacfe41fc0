"""What bounds a pass of a model: how fast its weights are read, multiplied by, or operations are started."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Floors:
    """What one pass takes at the least in each respect, in CPU seconds, as this machine has just shown.

    `products_s` includes what reading the weights takes. `operations` is how many of PyTorch's labkit's pass
    starts, and `starting_s` what one takes that computes nothing to speak of.
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
    """What a pass spends most on, of what was measured, and its share of the time (0 to 1).

    `products` are multiplications at the library's speed, `weights` the same where reading the weights alone
    takes more than half of that, `dispatch` the starting of operations. What attention, sampling and the
    interpreter take is in none of them. A row with a small share is bound by what is not in this list.
    """

    by: str
    share: float


def bound_of(floors: Floors, pass_s: float, counted: bool) -> Bound:
    """What bounds a pass that took so many CPU seconds.

    Args:
        counted: whether the pass is labkit's, whose operations were counted. Another's are not known.
    """
    dispatch_s = floors.operations * floors.starting_s
    if counted and dispatch_s > floors.products_s:
        return Bound("dispatch", dispatch_s / pass_s)
    by = "weights" if floors.reading_s > floors.products_s / 2 else "products"
    return Bound(by, floors.products_s / pass_s)
