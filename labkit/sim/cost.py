"""What an iteration of the model costs in time: six figures, fitted to iterations that were measured.

    seconds = t0 + decode · decodes + prefill · prompt tokens + attend · pairs of query and key
              + read · KV tokens + swap · KV tokens moved

Whoever computes, the weights are read once (`t0`): that is why batching pays. The linear layers cost by the
token, attention by the pair, and the keys and values of everybody are read from memory once, which is most
of what long answers cost: a decode has one pair for each key, a prompt's many pairs share what is read.
"""

from collections.abc import Iterable, Sequence
from itertools import chain, combinations
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

Seconds = Annotated[float, Meta(ge=0)]
Matrix = NDArray[np.float64]

ROUNDS = 20
NEGLIGIBLE = 0.01


class Load(msgspec.Struct, frozen=True):
    """What one iteration computes; the fields are those of `labkit.engine.trace.Iteration`.

    `kv_tokens` are of those who compute; an iteration's are of the paused too.
    """

    prefill: int = 0
    decodes: int = 0
    attended: int = 0
    kv_tokens: int = 0
    swapped: int = 0


class Cost(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Seconds for an iteration, and for each decode, prompt token, pair of query and key, KV token that is
    read, KV token that is moved.
    """

    t0: Seconds
    decode: Seconds
    prefill: Seconds
    attend: Seconds
    read: Seconds
    swap: Seconds

    def seconds(self, load: Load) -> float:
        """How long an iteration takes."""
        return (
            self.t0
            + self.decode * load.decodes
            + self.prefill * load.prefill
            + self.attend * load.attended
            + self.read * load.kv_tokens
            + self.swap * load.swapped
        )

    def save(self, path: Path) -> None:
        """Write as JSON."""
        path.write_bytes(msgspec.json.format(msgspec.json.encode(self)) + b"\n")

    @classmethod
    def load(cls, path: Path) -> "Cost":
        """Read what `save` wrote.

        Raises:
            ValueError: it is no cost, or one of its figures is negative.
        """
        try:
            return msgspec.json.decode(path.read_bytes(), type=cls)
        except msgspec.MsgspecError as error:
            raise ValueError(f"{path}: {error}") from None


def fit(measured: Iterable[tuple[Load, float]]) -> Cost:
    """The cost that comes nearest to measured iterations, given as (load, seconds).

    Errors count in proportion to what is predicted, so that decode steps weigh as much as long prompts, and
    by their size and not its square, so that iterations that something else held up hardly count. A term
    that no iteration has comes out as 0.

    Raises:
        ValueError: there are no iterations, or one of them took no time.
    """
    rows = list(measured)
    if not rows or any(seconds <= 0 for _, seconds in rows):
        raise ValueError("a cost is fitted to at least one iteration, and each takes some time")
    seconds = np.array([each for _, each in rows])
    terms = np.array([(1, x.decodes, x.prefill, x.attended, x.kv_tokens, x.swapped) for x, _ in rows])
    predicted, weights = seconds, np.ones(len(rows))
    # least absolute errors, by least squares that weigh each row by 1 / its error in the round before
    for _ in range(ROUNDS):
        scale = weights / predicted
        found = _nonnegative(terms * scale[:, None], seconds * scale)
        predicted = np.maximum(terms @ found, seconds.min() / 10)
        weights = 1 / np.sqrt(np.maximum(np.abs(seconds / predicted - 1), NEGLIGIBLE))
    return Cost(*map(float, found))


def _nonnegative(terms: Matrix, aim: Matrix) -> Matrix:
    """Least squares without negative terms.

    The best such solution is the plain one of those terms that it does not set to 0, so it is among the
    plain solutions of all choices of terms; of six there are 64.
    """
    columns = range(terms.shape[1])
    choices = chain.from_iterable(combinations(columns, n) for n in range(len(columns) + 1))
    solutions = [_plain(terms, aim, choice) for choice in choices]
    return min(
        (x for x in solutions if (x >= 0).all()),
        key=lambda x: float(np.sum((terms @ x - aim) ** 2)),
    )


def _plain(terms: Matrix, aim: Matrix, choice: Sequence[int]) -> Matrix:
    solution = np.zeros(terms.shape[1])
    solution[list(choice)] = np.linalg.lstsq(terms[:, choice], aim, rcond=None)[0]
    return solution
