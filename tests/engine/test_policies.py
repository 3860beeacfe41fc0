"""The scheduling policies: no forbidden plan, each policy's promise, and an end for every request."""

from collections.abc import Sequence as Many
from dataclasses import dataclass, field, replace
from random import Random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from labkit.engine.core import Core
from labkit.engine.policies import POLICIES, create_policy
from labkit.engine.policies.andes import Andes
from labkit.engine.scheduler import Estimates, Limits, Plan, Policy, Situation
from labkit.engine.sequence import Sequence
from labkit.engine.work import Work
from labkit.errors import InvalidRequest

LONGEST = 80
WORN_OUT = 5000
"""More iterations than any of these workloads needs."""

by_policy = pytest.mark.parametrize("policy", POLICIES)


class Instant:
    """A runner that computes nothing. Its clock moves by what a step and its tokens might take."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def clock(self) -> float:
        return self.now_s

    def run(self, work: Many[Work]) -> list[int | None]:
        self.now_s += 0.02 + 0.001 * sum(tokens for _, tokens in work)
        return [7 if tokens == sequence.pending else None for sequence, tokens in work]

    def check(self, slot: int) -> None: ...
    def swap_out(self, sequence: Sequence) -> None: ...
    def swap_in(self, sequence: Sequence) -> None: ...
    def forget(self, sequence: Sequence) -> None: ...
    def keep_blocks(self, sequence: Sequence, copies: Many[tuple[int, int]]) -> None: ...
    def use_blocks(self, sequence: Sequence, places: Many[int]) -> None: ...


@dataclass(frozen=True)
class Step:
    """A plan and its situation. The sequences change later; these copies do not."""

    plan: Plan
    running: list[Sequence]
    waiting: list[Sequence]
    decoding: set[Sequence]
    stalled: set[Sequence]
    leads_s: dict[Sequence, float]

    @property
    def computing(self) -> list[Sequence]:
        return [sequence for sequence, _ in self.plan.run]


@dataclass
class Recorded:
    """A policy that records every plan of another. (The core checks the plans.)"""

    inner: Policy
    steps: list[Step] = field(default_factory=list)
    name: str = "recorded"

    def plan(self, situation: Situation) -> Plan:
        here = [*situation.running, *situation.waiting]
        decoding, stalled = {s for s in here if s.decoding}, {s for s in here if s.stalled}
        leads_s = {s: s.lead_s(situation.now_s) for s in here}
        plan = self.inner.plan(situation)
        before = (list(situation.running), list(situation.waiting), decoding, stalled, leads_s)
        self.steps.append(Step(plan, *before))
        return plan


@dataclass(frozen=True)
class Job:
    arrival_s: float
    prompt: int
    answer: int
    reader_tps: float = 10.0


jobs_of = st.lists(
    st.builds(
        Job,
        st.sampled_from([0.0, 0.1, 0.5, 2.0]),
        st.integers(1, 48),
        st.integers(1, LONGEST - 48),
        st.sampled_from([1.0, 10.0, 1000.0]),
    ),
    min_size=1,
    max_size=10,
)
memories, preemptions = st.sampled_from(["reserve", "optimistic"]), st.sampled_from(["recompute", "swap"])
kv_tokens, budgets = st.sampled_from([LONGEST, 112, 200, 1000]), st.sampled_from([0, 0, 1, 7, 32])
limits_of = st.builds(Limits, kv_tokens, st.integers(1, 6), budgets, memories, preemptions)
prefixes_of = st.sampled_from([0, 64])


class Drive:
    """A core with a policy whose plans are recorded; it runs jobs to their end.

    Args:
        moods: a seed for readers that stall and for paces that hold sequences up; None for neither.
    """

    def __init__(self, policy: str, limits: Limits, prefix: int = 0, moods: int | None = None) -> None:
        self.runner = Instant()
        self.policy = Recorded(create_policy(policy))
        self.core = Core(self.runner, self.policy, limits, self.runner.clock, prefix)
        self.moods = None if moods is None else Random(moods)
        self.most_kv = 0

    def __call__(self, jobs: Many[Job]) -> list[Sequence]:
        coming = sorted((sequence_of(job) for job in jobs), key=lambda s: s.arrival_s)
        sequences = list(coming)
        for iteration in range(WORN_OUT):
            while coming and coming[0].arrival_s <= self.runner.now_s:
                self.core.add(coming.pop(0))
            if not (coming or self.core.running or self.core.waiting):
                return sequences
            self.be_moody(sequences, iteration)
            plan = self.core.iterate()
            self.most_kv = max(self.most_kv, self.core.kv_tokens)
            if not plan.run and not plan.evict:
                self.idle()
        raise AssertionError(f"not done after {WORN_OUT} iterations")

    def be_moody(self, sequences: list[Sequence], iteration: int) -> None:
        if self.moods is None:
            return
        for sequence in sequences:
            if self.moods.random() < 0.1:
                sequence.stalled = iteration < 500 and not sequence.stalled and sequence.generated > 0
            sequence.ready = not sequence.stalled and self.moods.random() < 0.8

    def idle(self) -> None:
        """Check that no sequence computes only because one that holds KV waits for its pace or its reader."""
        here = [*self.core.running, *self.core.waiting]
        if isinstance(self.policy.inner, type(create_policy("static"))):
            assert not all(sequence.ready for sequence in here) or not here
        elif all(sequence.ready or sequence.stalled for sequence in here):
            assert not any(sequence.ready for sequence in here)
        self.runner.now_s += 0.05


def sequence_of(job: Job) -> Sequence:
    # all prompts begin alike, so that a prefix cache has hits
    return Sequence("", [1] * job.prompt, job.answer, job.arrival_s, job.reader_tps)


@by_policy
@given(jobs=jobs_of, limits=limits_of, prefix=prefixes_of, moods=st.none() | st.integers(0, 99))
@example([Job(0, 1, 24), Job(0, 10, 25), Job(0, 6, 14)], Limits(80, 3, 7, "optimistic"), 0, 1)
@example([Job(0, 27, 23, 1), Job(0, 33, 1, 1)], Limits(80, 2, 7, "optimistic"), 0, None)
@example([Job(0, 1, 8), Job(0, 1, 1)], Limits(80, 1, 1), 0, 0)
@example([Job(0, 31, 21), Job(0, 16, 17)], Limits(80, 2, 7, "optimistic"), 64, None)
@settings(max_examples=80, deadline=None)
def test_every_request_gets_a_whole_answer_within_the_limits(
    policy: str, jobs: list[Job], limits: Limits, prefix: int, moods: int | None
) -> None:
    drive = Drive(policy, limits, prefix, moods)
    for sequence, job in zip(drive(jobs), sorted(jobs, key=lambda job: job.arrival_s), strict=True):
        assert sequence.generated == job.answer
    assert drive.most_kv <= limits.kv_tokens
    assert drive.core.kv_tokens == 0


def plans(policy: str, jobs: list[Job], limits: Limits, moods: int | None = None) -> list[Step]:
    drive = Drive(policy, limits, moods=moods)
    drive(jobs)
    return drive.policy.steps


@given(jobs_of, limits_of)
@example([Job(0, 1, 24), Job(0, 10, 25), Job(0, 6, 25), Job(0, 1, 1)], Limits(80, 3, 0, "optimistic"))
@settings(max_examples=60, deadline=None)
def test_static_admits_no_request_while_its_batch_lives(jobs: list[Job], limits: Limits) -> None:
    admitted: set[Sequence] = set()
    for step in plans("static", jobs, replace(limits, budget=0)):
        if new := set(step.computing) - admitted:
            assert not admitted & {*step.running, *step.waiting}
            admitted |= new


@given(jobs_of, limits_of)
@settings(max_examples=60, deadline=None)
def test_fcfs_lets_no_request_overtake(jobs: list[Job], limits: Limits) -> None:
    for step in plans("fcfs", jobs, limits):
        admitted = [sequence for sequence in step.waiting if sequence in step.computing]
        assert admitted == step.waiting[: len(admitted)]


@given(jobs_of, limits_of)
@example([Job(0, 18, 32), Job(0, 1, 32), Job(0, 1, 1)], Limits(80, 2, 0, "optimistic", "swap"))
@settings(max_examples=60, deadline=None)
def test_prefill_first_never_mixes_prompts_and_decodes(jobs: list[Job], limits: Limits) -> None:
    for step in plans("prefill_first", jobs, limits):
        assert len({sequence in step.decoding for sequence in step.computing}) <= 1


@given(jobs_of, limits_of)
@settings(max_examples=60, deadline=None)
def test_sarathi_keeps_its_budget_and_gives_it_to_decodes_first(jobs: list[Job], limits: Limits) -> None:
    for step in plans("sarathi", jobs, replace(limits, memory="reserve")):
        assert sum(tokens for _, tokens in step.plan.run) <= (limits.budget or 128)
        kinds = [sequence in step.decoding for sequence in step.computing]
        if False in kinds:
            left_out = step.decoding & set(step.running) - set(step.computing)
            assert not left_out


@pytest.mark.parametrize("policy", ["static", "fcfs", "prefill_first", "sarathi"])
@given(jobs=jobs_of, limits=limits_of, moods=st.none() | st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_under_reserve_only_stalled_readers_lose_their_memory(
    policy: str, jobs: list[Job], limits: Limits, moods: int | None
) -> None:
    for step in plans(policy, jobs, replace(limits, memory="reserve"), moods):
        assert set(step.plan.evict) <= step.stalled


@given(jobs_of, limits_of)
@settings(max_examples=60, deadline=None)
def test_tokenflow_preempts_those_with_text_left_to_read(jobs: list[Job], limits: Limits) -> None:
    for step in plans("tokenflow", jobs, replace(limits, memory="reserve")):
        assert all(step.leads_s[sequence] > 1.5 for sequence in step.plan.evict)


def test_andes_preempts_no_more_than_once_a_request() -> None:
    steps = plans("andes", [Job(0.0, 16, 300, reader_tps=20.0)] * 6, Limits(10_000, 2))
    assert sum(len(each.plan.evict) for each in steps) == 6


@pytest.mark.parametrize("policy", ["andes", "tokenflow"])
def test_a_sequence_with_much_unread_text_gives_way_to_a_first_token(policy: str) -> None:
    slow = [Job(0.0, 16, 80, reader_tps=1.0)] * 2
    steps = plans(policy, [*slow, Job(0.5, 16, 4)], Limits(1000, 2, preemption="swap"))
    evicted = [sequence for each in steps for sequence in each.plan.evict]
    assert evicted and all(sequence.reader_tps == 1.0 for sequence in evicted)
    assert plans("fcfs", [*slow, Job(0.5, 16, 4)], Limits(1000, 2))[-1].plan.evict == []


@pytest.mark.parametrize("policy", [name for name in POLICIES if name != "static"])
def test_stalled_readers_block_no_other_however_many_they_are(policy: str) -> None:
    drive = Drive(policy, Limits(1000, 2))
    sequences = [sequence_of(Job(0.0, 10, 30)) for _ in range(5)]
    for sequence in sequences:
        drive.core.add(sequence)
        while sequence.generated < 2:
            assert drive.core.iterate().run
        sequence.stalled, sequence.ready = True, False
    for sequence in reversed(sequences):
        sequence.stalled, sequence.ready = False, True
        while not sequence.finished:
            assert drive.core.iterate().run


@by_policy
def test_lowered_limits_hold_after_an_iteration(policy: str) -> None:
    drive = Drive(policy, Limits(1000, 6, memory="optimistic"))
    for _ in range(6):
        drive.core.add(sequence_of(Job(0.0, 40, 40)))
    for _ in range(10):
        drive.core.iterate()
    assert drive.core.kv_tokens > LONGEST
    drive.core.limits = replace(drive.core.limits, kv_tokens=LONGEST)
    drive.core.iterate()
    assert drive.core.kv_tokens <= LONGEST
    drive([])


def reading(tokens: int, lead_s: float, *, holds: bool, number: int = 0) -> Sequence:
    """A sequence at 0 s whose reader has unread text for `lead_s`. It holds the KV of its tokens, or none."""
    sequence = Sequence("", [1] * tokens, 200, -1.0)
    sequence.push(7, -0.5)
    sequence.read_until_s, sequence.number = lead_s, number
    if holds:
        sequence.computed, sequence.slot = tokens, 0
    return sequence


def test_tokenflow_brings_a_long_text_back_in_time() -> None:
    evicted, full = reading(800, 1.5, holds=False), reading(50, 60.0, holds=True)
    estimates = Estimates(0.005, 0.002, 0.0001)
    plan = create_policy("tokenflow").plan(Situation(0.0, [full], [evicted], Limits(4096, 1), estimates))
    assert plan == Plan([(evicted, 801)], [full])


def test_tokenflow_preempts_no_request_while_long_texts_wait_to_come_back() -> None:
    full, new = reading(50, 6.0, holds=True), Sequence("", [1] * 50, 200, 0.0)
    estimates, limits = Estimates(0.005, 0.002, 0.0001), Limits(4096, 1)
    for out, evicted in ([], [full]), ([reading(800, 60.0, holds=False)], []):
        plan = create_policy("tokenflow").plan(Situation(0.0, [full], [*out, new], limits, estimates))
        assert plan.evict == evicted


def test_andes_evicts_no_request_for_a_stalled_reader() -> None:
    reads, stalled = reading(50, 2.0, holds=True), reading(50, 0.0, holds=False)
    stalled.stalled, stalled.ready = True, False
    plan = create_policy("andes").plan(Situation(0.0, [reads], [stalled], Limits(4096, 1), Estimates()))
    assert plan == Plan([(reads, 1)])


def test_the_cap_of_andes_counts_the_requests_since_it_was_chosen() -> None:
    full, dry = reading(50, 60.0, holds=True, number=1000), reading(50, 0.0, holds=False, number=1001)
    capped = Andes(preemptions=0.5)
    for now_s, evicted in ((0.0, [full]), (2.0, [])):
        plan = capped.plan(Situation(now_s, [full], [dry], Limits(4096, 1), Estimates()))
        assert plan.evict == evicted


def test_a_first_token_gains_nothing_in_andes_before_it_is_due() -> None:
    new, running_dry = Sequence("", [1] * 50, 200, 0.0), reading(50, 0.3, holds=False)
    situation = Situation(0.0, [], [new, running_dry], Limits(4096, 1), Estimates())
    assert create_policy("andes").plan(situation).run == [(running_dry, 51)]


def test_a_wrong_policy_is_refused_with_the_right_ones() -> None:
    with pytest.raises(InvalidRequest, match=r"static, fcfs.*not 'best'"):
        create_policy("best")
    assert [create_policy(name).name for name in POLICIES] == list(POLICIES)
