"""The time that an iteration of the model takes: six figures, fitted to measured iterations.

    seconds = t0 + decode · decodes + prefill · prompt tokens + attend · pairs of query and key
              + read · KV tokens + swap · KV tokens moved

Each iteration reads the weights once, however many sequences compute (`t0`); that is why batching pays. The
linear layers cost by the token, attention by the pair. An iteration also reads the keys and values of all
sequences that compute, once. This is most of the cost of long answers: a decode reads each key for one pair,
whereas the many pairs of a prompt share one reading.
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
    """What one iteration computes. `labkit.engine.trace.Iteration` explains the fields.

    `kv_tokens` counts the sequences that compute, whereas an `Iteration`'s includes the paused ones.
    """

    prefill: int = 0
    decodes: int = 0
    attended: int = 0
    kv_tokens: int = 0
    swapped: int = 0


class Cost(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Seconds for each of the parts of an iteration.

    Args:
        t0: for the iteration.
        decode: for each sequence that decodes.
        prefill: for each prompt token.
        attend: for each pair of query and key.
        read: for each KV token that is read.
        swap: for each KV token that is moved out or in.
    """

    t0: Seconds
    decode: Seconds
    prefill: Seconds
    attend: Seconds
    read: Seconds
    swap: Seconds

    def seconds(self, load: Load) -> float:
        """Predict how long an iteration takes."""
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
            ValueError: the file holds no cost, or a figure is negative.
        """
        try:
            return msgspec.json.decode(path.read_bytes(), type=cls)
        except msgspec.MsgspecError as error:
            raise ValueError(f"{path}: {error}") from None


def fit(measurements: Iterable[tuple[Load, float]]) -> Cost:
    """Return the cost that fits measured iterations best, each given as (load, seconds).

    It minimizes the sum of absolute errors relative to the prediction. So a decode step weighs as much as a
    long prompt, and the few iterations that another process held up hardly count. A term that occurs in no
    iteration becomes 0.

    Raises:
        ValueError: there are no iterations, or one of them took no time.
    """
    rows = list(measurements)
    if not rows or any(seconds <= 0 for _, seconds in rows):
        raise ValueError("a cost is fitted to at least one iteration, and each takes some time")
    seconds = np.array([each for _, each in rows])
    terms = np.array([(1, x.decodes, x.prefill, x.attended, x.kv_tokens, x.swapped) for x, _ in rows])
    predicted, weights = seconds, np.ones(len(rows))
    # iteratively reweighted least squares: a row weighs 1 / its absolute error in the round before
    for _ in range(ROUNDS):
        scale = weights / predicted
        cost = _nonnegative(terms * scale[:, None], seconds * scale)
        predicted = np.maximum(terms @ cost, seconds.min() / 10)
        weights = 1 / np.sqrt(np.maximum(np.abs(seconds / predicted - 1), NEGLIGIBLE))
    return Cost(*map(float, cost))


def _nonnegative(terms: Matrix, aim: Matrix) -> Matrix:
    """Least squares with no negative coefficient.

    Plain least squares over the terms that the best solution does not set to 0 gives that same solution. So
    it is one of the plain solutions of all subsets, of which six terms have 64.
    """
    columns = range(terms.shape[1])
    subsets = chain.from_iterable(combinations(columns, n) for n in range(len(columns) + 1))
    solutions = [_plain(terms, aim, subset) for subset in subsets]
    return min(
        (x for x in solutions if (x >= 0).all()),
        key=lambda x: float(np.sum((terms @ x - aim) ** 2)),
    )


def _plain(terms: Matrix, aim: Matrix, subset: Sequence[int]) -> Matrix:
    """Least squares over a subset of the terms; the other coefficients are 0."""
    solution = np.zeros(terms.shape[1])
    solution[list(subset)] = np.linalg.lstsq(terms[:, subset], aim, rcond=None)[0]
    return solution
