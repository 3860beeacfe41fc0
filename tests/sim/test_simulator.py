"""The simulator: its clock by hand, and what policies and memory cost on it."""

from itertools import pairwise

import pytest
from sim_jobs import COST, CROWD, FLAT, ROOMY, iterations, job

from labkit.engine.policies import POLICIES
from labkit.engine.policies.fcfs import Fcfs
from labkit.engine.scheduler import Limits, Memory, Plan, Preemption, Situation
from labkit.errors import InvalidRequest
from labkit.sim.cost import Cost
from labkit.sim.simulator import simulate
from labkit.sim.timelines import summarize, timelines
from labkit.sim.workload import Job, Shape, Uniform, poisson


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
