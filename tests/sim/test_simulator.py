"""The simulator: its clock by hand, its decisions against the real engine's, its benchmark."""

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import pytest

from labkit.bench import simulator as bench
from labkit.bench.simulator import Prediction
from labkit.engine.local import LocalEngine
from labkit.engine.policies import POLICIES
from labkit.engine.policies.fcfs import Fcfs
from labkit.engine.scheduler import Limits, Memory, Plan, Preemption, Situation
from labkit.engine.trace import Iteration, Moved, Record
from labkit.errors import InvalidRequest
from labkit.figures.quiet import Neighbours
from labkit.sim import calibrate as calibration
from labkit.sim.calibrate import Calibration, calibrate
from labkit.sim.cost import Cost, Load
from labkit.sim.drive import drive
from labkit.sim.simulator import simulate
from labkit.sim.timelines import summarize, timelines
from labkit.sim.workload import Job, Shape, Uniform, bursts, poisson

COST = Cost(t0=1e-3, decode=6e-5, prefill=2.5e-5, attend=2e-8, read=4e-7, swap=1e-6)
FLAT = Cost(t0=1.0, decode=0.0, prefill=0.0, attend=0.0, read=0.0, swap=0.0)
ROOMY = Limits(kv_tokens=64 * 1024, seqs=64)
# twelve requests that take up to twice the 1,024 tokens that there are below
CROWD = bursts(12, 1.0, 12, shape=Shape(prompt=Uniform(40, 200), output=Uniform(20, 60)))


def job(arrival_s: float, prompt_tokens: int, output_tokens: int) -> Job:
    return Job(arrival_s, tuple(range(1, prompt_tokens + 1)), output_tokens, 10.0)


def iterations(records: list[Record]) -> list[Iteration]:
    return [record for record in records if isinstance(record, Iteration)]


def test_one_request_takes_the_time_that_its_iterations_cost() -> None:
    """A prompt of 20 tokens (210 pairs), then decodes that look at 21 and 22 keys; KV in blocks of 16."""
    cost = Cost(t0=1, decode=10, prefill=100, attend=1_000, read=10_000, swap=0)
    (only,) = timelines(simulate([job(5, 20, 3)], "fcfs", ROOMY, cost))
    first = 5 + 1 + 2_000 + 210_000 + 320_000
    second = first + 1 + 10 + 21_000 + 320_000
    assert only.token_times_s == [first, second, second + 1 + 10 + 22_000 + 320_000]
    assert [state for _, state in only.states] == ["waiting", "prefill", "decode", "finished"]


def test_idle_time_is_skipped() -> None:
    records = simulate([job(0, 4, 2), job(1e6, 4, 2)], "fcfs", ROOMY, FLAT)
    assert [t.token_times_s for t in timelines(records)] == [[1, 2], [1e6 + 1, 1e6 + 2]]
    assert len(iterations(records)) == 4


def test_a_request_that_comes_during_an_iteration_joins_at_the_next() -> None:
    records = simulate([job(0, 4, 4), job(0.5, 4, 1)], "fcfs", ROOMY, FLAT)
    assert [t.token_times_s for t in timelines(records)] == [[1, 2, 3, 4], [2]]


def test_requests_together_share_what_an_iteration_costs() -> None:
    alone = summarize(simulate([job(0, 4, 10)], "fcfs", ROOMY, FLAT))
    together = summarize(simulate([job(0, 4, 10)] * 8, "fcfs", ROOMY, FLAT))
    assert together.total_s == alone.total_s
    assert together.tokens == 8 * alone.tokens


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(("memory", "preemption"), [("reserve", "recompute"), ("optimistic", "swap")])
def test_every_policy_brings_every_request_to_its_end(
    policy: str, memory: Memory, preemption: Preemption
) -> None:
    jobs = poisson(60, 80, shape=Shape(prompt=Uniform(8, 200), output=Uniform(4, 60)))
    limits = Limits(kv_tokens=1024, seqs=8, memory=memory, preemption=preemption)
    records = simulate(jobs, policy, limits, COST)
    assert [len(t.token_times_s) for t in timelines(records)] == [job.output_tokens for job in jobs]
    assert all(t.finished for t in timelines(records))
    assert max(i.kv_tokens for i in iterations(records)) <= 1024
    assert max(i.running for i in iterations(records)) <= 8


def test_a_simulation_is_the_same_every_time() -> None:
    jobs = poisson(60, 80)
    assert simulate(jobs, "sarathi", ROOMY, COST) == simulate(jobs, "sarathi", ROOMY, COST)


def test_time_never_runs_backwards() -> None:
    spans = [(i.start_s, i.end_s) for i in iterations(simulate(poisson(60, 80), "sarathi", ROOMY, COST))]
    assert all(start < end for start, end in spans)
    assert all(one[1] <= other[0] for one, other in pairwise(spans))


def test_swapping_costs_by_the_token_moved() -> None:
    """The same run at two prices: the difference in time is the cost of the tokens moved."""
    limits = Limits(kv_tokens=1024, seqs=16, memory="optimistic", preemption="swap")
    free, dear = replace_swap(0.0), replace_swap(1.0)
    records = simulate(CROWD, "fcfs", limits, free)
    moved = sum(i.swapped for i in iterations(records))
    assert moved > 100
    later = summarize(simulate(CROWD, "fcfs", limits, dear)).total_s - summarize(records).total_s
    assert later == pytest.approx(moved)


def replace_swap(swap: float) -> Cost:
    return Cost(COST.t0, COST.decode, COST.prefill, COST.attend, COST.read, swap)


def test_recomputing_costs_prompt_tokens_again() -> None:
    limits = Limits(kv_tokens=1024, seqs=16, memory="optimistic", preemption="recompute")
    prompts = sum(len(job.prompt) for job in CROWD)
    repeated = iterations(simulate(CROWD, "fcfs", limits, COST))
    assert sum(i.prefill for i in repeated) > prompts + 100
    assert sum(i.prefill for i in iterations(simulate(CROWD, "fcfs", ROOMY, COST))) == prompts


def test_the_prefix_cache_spares_the_tokens_that_prompts_share() -> None:
    jobs = poisson(1, 30, shape=Shape(prompt=Uniform(20, 20), groups=1, prefix_tokens=64))
    without = simulate(jobs, "fcfs", ROOMY, COST)
    cached = simulate(jobs, "fcfs", ROOMY, COST, prefix_tokens=4096)
    assert sum(i.prefill for i in iterations(without)) == 30 * 84
    assert sum(i.prefill for i in iterations(cached)) == 30 * 84 - 29 * 64


def test_the_prefix_cache_does_not_confuse_two_answers() -> None:
    """Two requests with one prompt have different answers, and the cache keeps the blocks of both."""
    answers: list[tuple[int, ...]] = []

    class Recording(Fcfs):
        def plan(self, situation: Situation) -> Plan:
            answers.extend(tuple(s.tokens[s.prompt_tokens :]) for s in situation.running if s.generated)
            return super().plan(situation)

    simulate([job(0, 8, 3), job(0, 8, 3)], Recording(), ROOMY, COST)
    assert len({tokens[0] for tokens in answers}) == 2
    assert all(token < 0 for tokens in answers for token in tokens)


def test_chunked_prefill_spares_readers_the_wait_for_a_long_prompt() -> None:
    """Six requests decode when a prompt of 900 tokens arrives: its chunks delay them less than the whole."""
    jobs = [job(0, 10, 200)] * 6 + [job(0.1, 900, 10)]
    whole, chunks = (summarize(simulate(jobs, policy, ROOMY, COST)) for policy in ("fcfs", "sarathi"))
    assert whole.itl_p99_ms is not None and chunks.itl_p99_ms is not None
    worst_whole, worst_chunks = longest_gap(jobs, "fcfs"), longest_gap(jobs, "sarathi")
    assert worst_whole > 4 * worst_chunks


def longest_gap(jobs: list[Job], policy: str) -> float:
    readers = timelines(simulate(jobs, policy, ROOMY, COST))[:6]
    return max(later - sooner for t in readers for sooner, later in pairwise(t.token_times_s))


def test_thousands_of_requests_take_few_steps_of_the_scheduler() -> None:
    """The simulator runs batches and not single requests, so there are few iterations."""
    jobs = poisson(1_000, 2_000, shape=Shape(prompt=Uniform(8, 30), output=Uniform(10, 30)))
    records = simulate(jobs, "fcfs", ROOMY, COST)
    tokens = sum(job.output_tokens for job in jobs)
    assert len(iterations(records)) < tokens / 20
    assert summarize(records).finished == 2_000


def test_a_request_that_never_fits_is_an_error() -> None:
    with pytest.raises(ValueError, match="job 1 takes 1120 KV tokens and kv_tokens is 1024"):
        simulate([job(0, 10, 10), job(0, 1_000, 110)], "fcfs", Limits(1024, 4), COST)


def test_an_unknown_policy_is_an_error() -> None:
    with pytest.raises(InvalidRequest, match="policy"):
        simulate([job(0, 1, 1)], "lifo", ROOMY, COST)


def test_a_policy_that_admits_no_request_is_an_error() -> None:
    class Closed(Fcfs):
        name = "closed"

        def plan(self, situation: Situation) -> Plan:
            return Plan()

    with pytest.raises(ValueError, match="'closed' leaves 2 jobs waiting"):
        simulate([job(0, 1, 1), job(3, 1, 1)], Closed(), ROOMY, COST)


def test_a_policy_that_exceeds_the_limits_is_an_error() -> None:
    class Greedy(Fcfs):
        name = "greedy"

        def plan(self, situation: Situation) -> Plan:
            return Plan([(s, s.pending) for s in (*situation.running, *situation.waiting)])

    with pytest.raises(ValueError, match="'greedy' lets 12 sequences hold KV: seqs is 4"):
        simulate(CROWD, Greedy(), Limits(64 * 1024, 4), COST)


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
