"""The simulator against the real engine: its decisions, its calibration and its benchmark."""

import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from sim_jobs import COST, CROWD, FLAT, ROOMY, iterations, job

from labkit.bench import simulator as bench
from labkit.bench.simulator import Prediction
from labkit.engine.local import LocalEngine
from labkit.engine.scheduler import Limits, Preemption
from labkit.engine.trace import Iteration, Moved, Record
from labkit.figures.quiet import Neighbours
from labkit.sim import calibrate as calibration
from labkit.sim.calibrate import Calibration, calibrate
from labkit.sim.cost import Cost, Load
from labkit.sim.drive import drive
from labkit.sim.simulator import simulate
from labkit.sim.timelines import summarize, timelines
from labkit.sim.workload import Job, Shape, Uniform, poisson


class Together:
    """A watcher that holds the engine in its first iteration until all others have been submitted."""

    def __init__(self, engine: LocalEngine, others: int) -> None:
        self.engine, self.others = engine, others

    def __call__(self, record: Record) -> None:
        if isinstance(record, Moved) and record.request == 0 and record.state == "prefill":
            end = time.monotonic() + 10
            while len(self.engine._inbox) < self.others and time.monotonic() < end:
                time.sleep(0.001)


def decisions(records: list[Record]) -> list[tuple[object, ...]]:
    """Everything in the records of iterations and preemptions except the times."""
    return [
        (r.request, r.state)
        if isinstance(r, Moved)
        else (r.prefill, r.decodes, r.attended, r.swapped, r.kv_tokens, r.running, r.waiting, r.emitted)
        for r in records
        if isinstance(r, Iteration) or (isinstance(r, Moved) and r.state in ("evicted", "swapped"))
    ]


@pytest.mark.parametrize("policy", ["static", "fcfs", "prefill_first", "sarathi"])
@pytest.mark.parametrize("preemption", ["recompute", "swap"])
def test_the_simulator_decides_as_the_real_engine_does(policy: str, preemption: Preemption) -> None:
    """One request arrives, the others during its first iteration, and memory suffices for some of them. Then
    the schedule is the same to a token, whatever the iterations take."""
    jobs = [replace(job, arrival_s=0.2 * (n > 0) + 0.001 * n) for n, job in enumerate(CROWD)]
    engine = LocalEngine(policy=policy, kv_tokens=1024, memory="optimistic", preemption=preemption)
    try:
        engine.watch(Together(engine, len(jobs) - 1))
        real = drive(jobs, engine)
    finally:
        engine.close()
    limits = Limits(1024, 64, memory="optimistic", preemption=preemption)
    simulated = simulate(jobs, policy, limits, FLAT)
    assert decisions(real) == decisions(simulated)
    assert summarize(real).preemptions > 0


@pytest.fixture
def engine() -> Iterator[LocalEngine]:
    engine = LocalEngine()
    yield engine
    engine.close()


def test_a_drive_runs_the_jobs_as_they_are(engine: LocalEngine) -> None:
    jobs = poisson(40, 20, shape=Shape(prompt=Uniform(2, 60), output=Uniform(1, 20)), seed=3)
    records = drive(jobs, engine)
    requests = timelines(records)
    assert [t.arrival_s for t in requests] == [job.arrival_s for job in jobs]
    assert [t.prompt_tokens for t in requests] == [len(job.prompt) for job in jobs]
    assert [len(t.token_times_s) for t in requests] == [job.output_tokens for job in jobs]
    assert [t.reader_tps for t in requests] == [job.reader_tps for job in jobs]
    assert all(t.finished and t.waits_s[0] > 0 for t in requests)
    assert not [thread for thread in threading.enumerate() if thread.name == "labkit-drive"]


def test_a_drive_waits_for_the_records_of_its_last_tokens(engine: LocalEngine) -> None:
    def slow(record: Record) -> None:
        if isinstance(record, Iteration):
            time.sleep(0.05)

    engine.watch(slow)
    assert [t.finished for t in timelines(drive([job(0, 8, 3)], engine))] == [True]


def test_jobs_of_a_prefix_begin_alike_on_the_real_engine() -> None:
    engine = LocalEngine(prefix_cache=4096)
    try:
        jobs = poisson(
            40, 6, shape=Shape(prompt=Uniform(20, 20), output=Uniform(4, 4), groups=1, prefix_tokens=64)
        )
        first, later = (
            sum(i.prefill for i in iterations(drive(part, engine))) for part in (jobs[:1], jobs[1:])
        )
    finally:
        engine.close()
    assert (first, later) == (64 + 20, 5 * 20)


def test_a_job_beyond_the_context_is_an_error(engine: LocalEngine) -> None:
    with pytest.raises(ValueError, match=r"job 1: 1000 \+ 26 tokens; context is 1024"):
        drive([job(0, 1_000, 25), job(0, 1_000, 26)], engine)


def test_calibration_finds_the_cost_of_a_simulated_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The calibration's workloads, simulated at a given cost, yield every term of that cost."""

    def simulated(jobs: list[Job], engine: LocalEngine) -> list[Record]:
        return simulate(jobs, engine._core.policy, engine._core.limits, COST)

    monkeypatch.setattr(calibration, "drive", simulated)
    result = calibrate()
    assert result.error < 0.01
    for name in Cost.__struct_fields__:
        assert getattr(result.cost, name) == pytest.approx(getattr(COST, name), rel=0.05), name


def test_calibration_measures_the_real_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """One decode step takes some time, and 512 tokens of a prompt take more."""
    monkeypatch.setattr(calibration, "WAVES", ((1, 16, 40), (16, 16, 40), (2, 600, 4)))
    monkeypatch.setattr(calibration, "SWAPS", ((4, 300, 200),))
    result = calibrate()
    assert result.engine == "tiny" and result.iterations > 150
    step, prompt = Load(0, 1, 50, 64), Load(512, 0, 512 * 256, 512)
    assert 0 < result.cost.seconds(step) < result.cost.seconds(prompt)


def test_only_an_engine_with_a_scheduler_can_be_calibrated() -> None:
    with pytest.raises(ValueError, match="'scripted' has no scheduler"):
        calibrate("scripted")


def prediction(**fields: float) -> Prediction:
    """A prediction that is right in all fields but these."""
    right = Prediction("poisson", 100, 10.0, 10.0, 8.0, 8.0, 2.0, 2.0, 0.0, 0.0)
    return replace(right, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "verdict"),
    [
        ({}, "met"),
        ({"predicted_total_s": 11.4}, "met"),
        ({"predicted_total_s": 8.4}, "not met"),
        ({"predicted_total_s": 11.6}, "not met"),
        ({"predicted_ttft_p99_s": 2.4}, "met"),
        ({"predicted_ttft_p99_s": 1.4}, "not met"),
        ({"drift": -0.2}, "inconclusive"),
        ({"predicted_total_s": 20.0, "drift": 0.2}, "inconclusive"),
        ({"others": 0.3}, "inconclusive"),
    ],
)
def test_a_prediction_is_judged_where_the_machine_held_still_and_was_not_used(
    fields: dict[str, float], verdict: str
) -> None:
    assert prediction(**fields).verdict == verdict


def test_the_benchmark_holds_three_workloads_against_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "calibrate", lambda: Calibration("tiny", COST, 100, 0.1))
    monkeypatch.setattr(Neighbours, "share", lambda _: 0.25)
    stages: list[str] = []
    result = bench.measure(policy="fcfs", seqs=16, seconds=0.3, progress=lambda name, _: stages.append(name))
    assert [p.workload for p in result.predictions] == ["poisson", "bursts", "ramp"]
    assert len(result.calibrations) == 4
    assert all(p.requests > 0 and p.ttft_p99_s > 0 and p.busy_s <= p.total_s for p in result.predictions)
    assert all(p.predicted_ttft_p99_s > 0 and p.drift == 0 for p in result.predictions)
    assert [p.others for p in result.predictions] == [0.25] * 3
    assert any("bursts" in name for name in stages)


def test_the_benchmark_s_workloads_are_as_heavy_as_the_machine_bears() -> None:
    """A machine that takes twice the time for everything gets half the requests a second; both keep up."""
    slow = Cost(*(2 * getattr(COST, name) for name in Cost.__struct_fields__))
    for name, jobs in bench.workloads(COST, "fcfs", ROOMY, 4.0).items():
        slower = bench.workloads(slow, "fcfs", ROOMY, 4.0)[name]
        assert len(jobs) == pytest.approx(2 * len(slower), rel=0.05)
        for each, cost in ((jobs, COST), (slower, slow)):
            assert summarize(simulate(each, "fcfs", ROOMY, cost)).total_s == pytest.approx(4, rel=0.25)
