"""The simulator's error: its predictions of workloads beside the same workloads on the engine, in real time.

A calibration just before a workload gives the prediction. Another just after shows whether the machine kept
its speed. If it did not, or if other processes used it, the verdict is inconclusive.
"""

from dataclasses import dataclass
from math import ceil
from typing import Literal

from rich.console import RenderableType

from labkit.bench.rounds import BenchOptions, Progress, silent
from labkit.bench.table import number, table
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
"""Short requests, so that hundreds of them fit into a few seconds."""
LONGEST = Shape(prompt=Uniform(480, 480), output=Uniform(2, 2))
"""Requests with as many tokens as the longest of `SHAPE` have at their end."""


@dataclass(frozen=True)
class Prediction:
    """One workload as measured and as predicted, in seconds; an error is predicted / measured - 1.

    Attributes:
        busy_s: the time during which at least one request was unfinished. It leaves out the pauses between
            arrivals, which `total_s` contains and which are easy to predict.
        drift: how much the machine changed: `busy_s` as predicted by the calibration after the workload over
            `busy_s` as predicted by the one before, - 1.
        others: the share of the cores that other processes used.
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
        """Inconclusive if the machine's speed changed, or others used the cores, by more than a tenth."""
        if abs(self.drift) > STEADY or self.others > QUIET:
            return "inconclusive"
        met = abs(self.total_error) <= TOTAL_TARGET and abs(self.ttft_error) <= TTFT_TARGET
        return "met" if met else "not met"


@dataclass(frozen=True)
class Simulator:
    """The result; `calibrations` are from before the first workload and from after each."""

    policy: str
    seqs: int
    calibrations: list[Calibration]
    predictions: list[Prediction]


def run(options: BenchOptions, progress: Progress) -> Simulator:
    return measure(seconds=1.0 if options.quick else 6.0, progress=progress)


def tables(result: Simulator) -> RenderableType:
    headings = ["", "requests", "total, s", "p99 TTFT, ms", "machine\nchanged", "target"]
    rows = [
        [
            p.workload,
            f"{p.requests}",
            _predicted(p.total_s, p.predicted_total_s, p.total_error, 2),
            _predicted(p.ttft_p99_s * 1e3, p.predicted_ttft_p99_s * 1e3, p.ttft_error, 0),
            f"{p.drift:+.0%}",
            p.verdict,
        ]
        for p in result.predictions
    ]
    return table(f"Measured → simulated, policy {result.policy}", headings, rows)


def _predicted(measured: float, predicted: float, error: float, digits: int) -> str:
    return f"{number(measured, digits)} → {number(predicted, digits)} ({error:+.0%})"


def measure(
    *, policy: str = "sarathi", seqs: int = 64, seconds: float = 6.0, progress: Progress = silent
) -> Simulator:
    """Compare three workloads of about `seconds` each with their predictions.

    Raises:
        InvalidRequest: there is no such policy, or the engine cannot hold that many seqs.
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
    """Make three workloads of about `seconds`, as heavy as a machine of this cost can bear.

    Full batches reach some number of requests a second. "bursts" and "poisson" send half as many, "ramp" a
    fifth to four fifths, so the engine does not fall behind.
    """
    batch = bursts(256, 1.0, 256, shape=SHAPE)
    most = len(batch) / _seconds(simulate(batch, policy, limits, cost))  # requests a second with full batches
    requests = ceil(seconds * most / 2)
    return {
        "poisson": poisson(most / 2, requests, shape=SHAPE),
        "bursts": bursts(ceil(requests / 4), seconds / 4, requests, shape=SHAPE),
        "ramp": ramp(most / 5, most * 4 / 5, requests, shape=SHAPE),
    }


def _seconds(records: list[Record]) -> float:
    return summarize(records).total_s


def _busy_s(records: list[Record]) -> float:
    """The time in seconds during which at least one request was unfinished."""
    busy_s = until_s = 0.0
    for request in timelines(records):
        end_s = request.token_times_s[-1]
        busy_s += max(0.0, end_s - max(until_s, request.arrival_s))
        until_s = max(until_s, end_s)
    return busy_s


def _drive(jobs: Workload, engine: BatchedEngine) -> tuple[list[Record], float]:
    """Run the workload; return the engine's records and the share of the cores that other processes used."""
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
