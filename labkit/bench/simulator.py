"""How true the simulator is: workloads on the real engine, in real time, held against what was predicted.

Each prediction is made from a calibration just before; another just after tells whether the machine was as
fast all the while. Nothing can be said about a prediction for a machine that changed, or that others used.
"""

from dataclasses import dataclass
from math import ceil
from typing import Literal

from labkit.bench.rounds import Progress, silent
from labkit.engine import create_engine
from labkit.engine.batched import BatchedEngine
from labkit.engine.scheduler import Limits, blocks
from labkit.engine.trace import Record
from labkit.figures.quiet import QUIET, Neighbours
from labkit.sim.calibrate import Calibration, calibrate
from labkit.sim.cost import Cost
from labkit.sim.drive import drive
from labkit.sim.simulator import simulate
from labkit.sim.timelines import summarize, timelines
from labkit.sim.workload import LogNormal, Shape, Uniform, Workload, bursts, poisson, ramp

TOTAL_TARGET, TTFT_TARGET = 0.15, 0.25
STEADY = 0.1

SHAPE = Shape(
    prompt=LogNormal(median=64, sigma=0.7, low=8, high=320),
    output=LogNormal(median=48, sigma=0.6, low=8, high=160),
)
"""Short requests, so that a run of seconds has hundreds of them."""
LONGEST = Shape(prompt=Uniform(480, 480), output=Uniform(2, 2))
"""As many tokens as the longest of them comes to hold."""


@dataclass(frozen=True)
class Prediction:
    """One workload as measured and as predicted, in seconds; errors are predicted / measured - 1.

    `busy_s` is how long there was anything to do: unlike `total_s` it has no pauses between arrivals, which
    are easy to predict. `drift` is how much the machine changed: `busy_s` as predicted by the calibration
    after over that of the one before, - 1. `others` is the share of the cores that other processes used.
    """

    workload: str
    requests: int
    total_s: float
    predicted_total_s: float
    busy_s: float
    predicted_busy_s: float
    ttft_p99_s: float
    predicted_ttft_p99_s: float
    drift: float
    others: float

    @property
    def total_error(self) -> float:
        return self.predicted_total_s / self.total_s - 1

    @property
    def busy_error(self) -> float:
        return self.predicted_busy_s / self.busy_s - 1

    @property
    def ttft_error(self) -> float:
        return self.predicted_ttft_p99_s / self.ttft_p99_s - 1

    @property
    def verdict(self) -> Literal["met", "not met", "inconclusive"]:
        """Inconclusive where the machine changed, or was used by others, too much to tell."""
        if abs(self.drift) > STEADY or self.others > QUIET:
            return "inconclusive"
        met = abs(self.total_error) <= TOTAL_TARGET and abs(self.ttft_error) <= TTFT_TARGET
        return "met" if met else "not met"


@dataclass(frozen=True)
class Simulator:
    """`calibrations` are from before the first workload and after each."""

    policy: str
    seqs: int
    calibrations: list[Calibration]
    predictions: list[Prediction]


def measure(
    *, policy: str = "sarathi", seqs: int = 64, seconds: float = 6.0, progress: Progress = silent
) -> Simulator:
    """Hold three workloads of about so many seconds each against their predictions.

    Raises:
        InvalidRequest: there is no such policy, or too many seqs.
    """
    progress("simulator: calibration", 0.0)
    calibrations = [calibrate()]
    engine = create_engine(f"tiny:policy={policy},seqs={seqs}")
    assert isinstance(engine, BatchedEngine)
    limits = Limits(seqs * blocks(engine.context), seqs)
    predictions: list[Prediction] = []
    try:
        jobs_of = workloads(calibrations[0].cost, policy, limits, seconds)
        drive(bursts(seqs, 1.0, seqs, shape=LONGEST), engine)  # the first touch of memory is slow
        for name, jobs in jobs_of.items():
            progress(f"simulator: {name}", (len(predictions) + 0.5) / (len(jobs_of) + 0.5))
            measured, others = _drive(jobs, engine)
            calibrations.append(calibrate())
            costs = [calibration.cost for calibration in calibrations[-2:]]
            simulated = [simulate(jobs, policy, limits, cost) for cost in costs]
            predictions.append(_prediction(name, measured, simulated, others))
    finally:
        engine.close()
    return Simulator(policy, seqs, calibrations, predictions)


def workloads(cost: Cost, policy: str, limits: Limits, seconds: float) -> dict[str, Workload]:
    """Three of about so many seconds, as heavy as a machine of this cost can bear without falling behind."""
    batch = bursts(256, 1.0, 256, shape=SHAPE)
    most = len(batch) / _seconds(simulate(batch, policy, limits, cost))  # requests a second at full batches
    requests = ceil(seconds * most / 2)
    return {
        "poisson": poisson(most / 2, requests, shape=SHAPE),
        "bursts": bursts(ceil(requests / 4), seconds / 4, requests, shape=SHAPE),
        "ramp": ramp(most / 5, most * 4 / 5, requests, shape=SHAPE),
    }


def _seconds(records: list[Record]) -> float:
    return summarize(records).total_s


def _busy_s(records: list[Record]) -> float:
    """How long at least one request was there that had not got its last token."""
    busy_s = until_s = 0.0
    for request in timelines(records):
        end_s = request.token_times_s[-1]
        busy_s += max(0.0, end_s - max(until_s, request.arrival_s))
        until_s = max(until_s, end_s)
    return busy_s


def _drive(jobs: Workload, engine: BatchedEngine) -> tuple[list[Record], float]:
    """The engine's records, and the share of the cores that other processes used meanwhile."""
    neighbours = Neighbours()
    records = drive(jobs, engine)
    return records, neighbours.share()


def _prediction(
    name: str, measured: list[Record], simulated: list[list[Record]], others: float
) -> Prediction:
    before, after = simulated
    real, predicted = summarize(measured), summarize(before)
    assert real.ttft_p99_s is not None and predicted.ttft_p99_s is not None
    return Prediction(
        workload=name,
        requests=real.requests,
        total_s=real.total_s,
        predicted_total_s=predicted.total_s,
        busy_s=_busy_s(measured),
        predicted_busy_s=_busy_s(before),
        ttft_p99_s=real.ttft_p99_s,
        predicted_ttft_p99_s=predicted.ttft_p99_s,
        drift=_busy_s(after) / _busy_s(before) - 1,
        others=others,
    )
