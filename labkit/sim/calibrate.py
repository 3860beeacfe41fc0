"""Fits a cost model to this machine, in seconds, from an engine's own records of some short workloads."""

from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from labkit.engine import create_engine
from labkit.engine.batched import BatchedEngine
from labkit.engine.trace import Iteration
from labkit.sim.cost import Cost, Load, fit
from labkit.sim.drive import drive
from labkit.sim.workload import LogNormal, Shape, Workload, bursts

REPEATS = 2
WAVES = (
    # requests at once, medians of the tokens of their prompts and of their answers
    (1, 150, 20),
    (2, 450, 20),
    (4, 60, 30),
    (8, 16, 30),
    (8, 150, 30),
    (16, 30, 30),
    (16, 100, 20),
    (32, 16, 30),
    (32, 60, 20),
    (64, 16, 20),
    (64, 60, 20),
)
SWAPS = ((4, 200, 120), (12, 60, 90))
"""These do not fit into a KV memory of one context together."""

Measured = tuple[Load, float]


@dataclass(frozen=True)
class Calibration:
    """A cost and how it was found; `error` is the median |predicted / measured - 1| of the iterations."""

    engine: str
    cost: Cost
    iterations: int
    error: float


def calibrate(engine: str = "tiny") -> Calibration:
    """Measure a new engine of this text form on this machine as it is now; takes a few seconds.

    What a busy neighbour adds is left out as far as it comes and goes; one that stays is part of the cost.

    Raises:
        StartError: that engine cannot be made.
        ValueError: it has no scheduler of its own, so there are no iterations to measure.
    """
    made = create_engine(engine)
    try:
        if not isinstance(made, BatchedEngine):
            raise ValueError(f"engine {engine!r} has no scheduler of its own to measure; take 'tiny'")
        measured = _measure(made)
    finally:
        made.close()
    cost = fit(measured)
    errors = [abs(cost.seconds(load) / seconds - 1) for load, seconds in measured]
    return Calibration(engine, cost, len(measured), median(errors))


def _measure(engine: BatchedEngine) -> list[Measured]:
    """Every wave several times, in turn, so that what comes and goes does not meet one of them alone."""
    drive(_wave(64, 60, 20), engine)  # memory that is touched first is slow
    measured = [each for wave in WAVES * REPEATS for each in iterations(_wave(*wave), engine)]
    engine.tune(memory="optimistic", preemption="swap", kv_tokens=engine.context)
    return measured + [each for wave in SWAPS * REPEATS for each in iterations(_wave(*wave), engine)]


def iterations(jobs: Workload, engine: BatchedEngine) -> list[Measured]:
    """What each iteration computed, and the seconds from its beginning to that of the next.

    So the handing over of its tokens counts. The jobs must keep the engine busy all the time.
    """
    records = [record for record in drive(jobs, engine) if isinstance(record, Iteration)]
    return [(_load(now), then.start_s - now.start_s) for now, then in pairwise(records)]


def _load(iteration: Iteration) -> Load:
    return Load(
        iteration.prefill, iteration.decodes, iteration.attended, iteration.kv_tokens, iteration.swapped
    )


def _wave(requests: int, prompt_tokens: int, output_tokens: int) -> Workload:
    """Requests at once, of lengths as different as those of real ones.

    A batch of different lengths is slower than one of equal lengths that holds as many tokens.
    """
    prompt = LogNormal(prompt_tokens, sigma=0.7, low=prompt_tokens // 4, high=min(5 * prompt_tokens, 800))
    output = LogNormal(output_tokens, sigma=0.7, low=output_tokens // 4, high=2 * output_tokens)
    return bursts(requests, 1.0, requests, shape=Shape(prompt, output))
