"""Fits a cost model to this machine, in a few seconds, from an engine's records of short workloads."""

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
    # requests at once, the median of their prompt tokens, the median of their answers' tokens
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
"""Workloads that do not fit into a KV memory of one context, so that sequences are swapped."""

Measurement = tuple[Load, float]
"""An iteration, and the seconds that it took."""


@dataclass(frozen=True)
class Calibration:
    """A cost, and the measurements behind it.

    Args:
        engine: the text form of the engine.
        iterations: how many were measured.
        error: the median of |predicted / measured - 1| over the iterations.
    """

    engine: str
    cost: Cost
    iterations: int
    error: float


def calibrate(engine: str = "tiny") -> Calibration:
    """Make an engine from its text form and measure it here and now; this takes a few seconds.

    Another process that is busy for a moment hardly changes the cost. One that stays busy is part of it.

    Raises:
        StartError: that engine cannot be made.
        ValueError: it has no scheduler of its own, so there are no iterations to measure.
    """
    subject = create_engine(engine)
    try:
        if not isinstance(subject, BatchedEngine):
            raise ValueError(f"engine {engine!r} has no scheduler of its own to measure; take 'tiny'")
        measurements = _measure(subject)
    finally:
        subject.close()
    cost = fit(measurements)
    errors = [abs(cost.seconds(load) / seconds - 1) for load, seconds in measurements]
    return Calibration(engine, cost, len(measurements), median(errors))


def _measure(engine: BatchedEngine) -> list[Measurement]:
    """Run all waves, several times in turn, so that a short disturbance does not hit one wave alone."""
    drive(_wave(64, 60, 20), engine)  # the first touch of memory is slow
    measurements = [each for wave in WAVES * REPEATS for each in iterations(_wave(*wave), engine)]
    engine.tune(memory="optimistic", preemption="swap", kv_tokens=engine.context)
    return measurements + [each for wave in SWAPS * REPEATS for each in iterations(_wave(*wave), engine)]


def iterations(jobs: Workload, engine: BatchedEngine) -> list[Measurement]:
    """Run jobs that keep the engine busy; return each iteration but the last.

    The seconds count from its beginning to the next one's, so they include the handing over of tokens.
    """
    records = [record for record in drive(jobs, engine) if isinstance(record, Iteration)]
    return [(_load(one), following.start_s - one.start_s) for one, following in pairwise(records)]


def _load(iteration: Iteration) -> Load:
    return Load(
        iteration.prefill, iteration.decodes, iteration.attended, iteration.kv_tokens, iteration.swapped
    )


def _wave(requests: int, prompt_tokens: int, output_tokens: int) -> Workload:
    """Requests that all arrive at once, with lengths that vary as real ones do.

    A batch of different lengths is slower than one of equal lengths with as many tokens.
    """
    prompt = LogNormal(prompt_tokens, sigma=0.7, low=prompt_tokens // 4, high=min(5 * prompt_tokens, 800))
    output = LogNormal(output_tokens, sigma=0.7, low=output_tokens // 4, high=2 * output_tokens)
    return bursts(requests, 1.0, requests, shape=Shape(prompt, output))
