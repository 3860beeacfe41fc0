"""The iteration loop over a runner that checks each call: no call is impossible, and no text is lost."""

from collections import Counter, defaultdict
from collections.abc import Sequence as Many
from dataclasses import dataclass, field, replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit.engine.core import Core, Work
from labkit.engine.policies import POLICIES, create_policy
from labkit.engine.scheduler import BLOCK, Limits, Plan, Situation, blocks
from labkit.engine.sequence import Sequence
from labkit.engine.trace import Arrived, Iteration, Moved, Record

AFTER = {
    "waiting": {"prefill", "dropped"},
    "prefill": {"decode", "paused", "evicted", "swapped", "finished", "dropped"},
    "decode": {"paused", "evicted", "swapped", "finished", "dropped"},
    "paused": {"prefill", "decode", "evicted", "swapped", "dropped"},
    "evicted": {"prefill", "decode", "dropped"},
    "swapped": {"prefill", "decode", "dropped"},
}


@dataclass
class Slots:
    """A runner that keeps texts where the real one keeps their keys and values, and checks each call."""

    now_s: float = 0.0
    slots: dict[int, list[int]] = field(default_factory=dict)
    store: dict[Sequence, list[int]] = field(default_factory=dict)
    places: dict[int, list[int]] = field(default_factory=dict)
    computed: dict[Sequence, list[int]] = field(default_factory=lambda: defaultdict(list))

    def clock(self) -> float:
        return self.now_s

    def run(self, work: Many[Work]) -> list[int | None]:
        assert len({sequence.slot for sequence, _ in work}) == len(work) > 0
        self.now_s += 0.01
        chosen: list[int | None] = []
        for sequence, tokens in work:
            text = sequence.tokens[: sequence.computed]
            assert sequence.slot is not None and 1 <= tokens <= sequence.pending
            assert not text or self.slots[sequence.slot] == text
            self.slots[sequence.slot] = sequence.tokens[: sequence.computed + tokens]
            self.computed[sequence].append(tokens)
            chosen.append(next_token(sequence.tokens) if tokens == sequence.pending else None)
        return chosen

    def swap_out(self, sequence: Sequence) -> None:
        assert sequence.slot is not None and sequence not in self.store
        self.store[sequence] = sequence.tokens[: sequence.computed]
        assert self.slots[sequence.slot] == self.store[sequence]

    def swap_in(self, sequence: Sequence) -> None:
        assert sequence.slot is not None
        self.slots[sequence.slot] = self.store.pop(sequence)

    def forget(self, sequence: Sequence) -> None:
        self.store.pop(sequence, None)

    def keep_blocks(self, sequence: Sequence, copies: Many[tuple[int, int]]) -> None:
        for number, place in copies:
            assert (number + 1) * BLOCK <= sequence.computed
            assert sequence.slot is not None
            self.places[place] = self.slots[sequence.slot][: (number + 1) * BLOCK]

    def use_blocks(self, sequence: Sequence, places: Many[int]) -> None:
        assert sequence.slot is not None and sequence.computed == 0
        for number, place in enumerate(places):
            assert self.places[place] == sequence.tokens[: (number + 1) * BLOCK]
        self.slots[sequence.slot] = self.places[places[-1]]


def next_token(tokens: list[int]) -> int:
    """The next token of a text, which depends on the text alone."""
    return hash(tuple(tokens)) % 5


@dataclass
class Puppet:
    """A policy that returns the plan that a test has set."""

    name: str = "puppet"
    next: Plan = field(default_factory=Plan)

    def plan(self, situation: Situation) -> Plan:
        plan, self.next = self.next, Plan()
        return plan


class Stage:
    """A core whose policy is a puppet, its runner and its records."""

    def __init__(self, limits: Limits, prefix_tokens: int = 0) -> None:
        self.runner, self.policy, self.records = Slots(), Puppet(), list[Record]()
        self.core = Core(self.runner, self.policy, limits, self.runner.clock, prefix_tokens)
        self.core.watch(self.records.append)

    def add(self, prompt: Many[int], max_tokens: int = 20) -> Sequence:
        sequence = Sequence("", list(prompt), max_tokens, self.runner.now_s)
        self.core.add(sequence)
        return sequence

    def play(self, *run: Work, evict: Many[Sequence] = ()) -> Iteration | None:
        self.policy.next = Plan(list(run), list(evict))
        before = len(self.records)
        self.core.iterate()
        iterations = [record for record in self.records[before:] if isinstance(record, Iteration)]
        return iterations[0] if iterations else None


jobs_of = st.lists(st.tuples(st.integers(1, 48), st.integers(1, 32)), min_size=1, max_size=10)
memories, preemptions = st.sampled_from(["reserve", "optimistic"]), st.sampled_from(["recompute", "swap"])
kv_tokens, seqs, budgets = st.sampled_from([80, 112, 1000]), st.integers(1, 5), st.sampled_from([0, 7, 32])
limits_of = st.builds(Limits, kv_tokens, seqs, budgets, memories, preemptions)
prefixes, seeds = st.sampled_from([0, 32, 320]), st.none() | st.integers(0, 99)


def lively(core: Core, sequences: list[Sequence], random: Random, iteration: int) -> None:
    """Let readers stall, come back and leave, and change the kind of preemption now and then."""
    for sequence in sequences:
        if random.random() < 0.1:
            sequence.stalled = iteration < 200 and sequence.generated > 0 and not sequence.stalled
        sequence.ready = not sequence.stalled and random.random() < 0.9
    here = [*core.running, *core.waiting]
    if here and random.random() < 0.03:
        core.drop(random.choice(here))
    if random.random() < 0.05:
        core.limits = replace(core.limits, preemption="swap" if random.random() < 0.5 else "recompute")


def check_records(records: list[Record], sequences: list[Sequence], runner: Slots) -> None:
    """Each request arrives once and ends once, each state may follow the last, all tokens are counted."""
    states: dict[int, str] = {}
    emitted, tokens, last_s = Counter[int](), 0, 0.0
    for record in records:
        match record:
            case Arrived():
                assert record.request not in states
                states[record.request] = ""
            case Moved():
                before = states[record.request]
                assert record.state in AFTER[before] if before else record.state == "waiting"
                states[record.request] = record.state
            case Iteration():
                assert last_s <= record.start_s < record.end_s
                assert all(states[number] in ("prefill", "decode") for number in record.emitted)
                emitted.update(record.emitted)
                tokens, last_s = tokens + record.prefill + record.decodes, record.end_s
    assert states == {s.number: "finished" if s.finished else "dropped" for s in sequences}
    assert emitted == Counter({s.number: s.generated for s in sequences if s.generated})
    assert tokens == sum(map(sum, runner.computed.values()))


@pytest.mark.parametrize("policy", POLICIES)
@given(jobs=jobs_of, limits=limits_of, prefix=prefixes, seed=seeds)
@settings(max_examples=50, deadline=None)
def test_no_call_is_impossible_and_every_text_is_right(
    policy: str, jobs: list[tuple[int, int]], limits: Limits, prefix: int, seed: int | None
) -> None:
    runner, records, random = Slots(), list[Record](), Random(seed)
    core = Core(runner, create_policy(policy), limits, runner.clock, prefix)
    core.watch(records.append)
    sequences = [Sequence("", [1] * prompt, answer, 0.0) for prompt, answer in jobs]
    for sequence in sequences:
        core.add(sequence)
    for iteration in range(5000):
        if not (core.running or core.waiting):
            break
        if seed is not None:
            lively(core, sequences, random, iteration)
        if not core.iterate().run:
            runner.now_s += 0.01
    for sequence, (prompt, answer) in zip(sequences, jobs, strict=True):
        text = [1] * prompt
        for _ in range(sequence.generated):
            text.append(next_token(text))
        assert sequence.tokens == text
        assert not sequence.finished or sequence.generated == answer
    check_records(records, sequences, runner)
    assert (core.kv_tokens, len(core._slots), runner.store) == (0, limits.seqs, {})


def test_an_evicted_text_is_computed_again_from_its_first_token_to_its_last() -> None:
    stage = Stage(Limits(1000, 2))
    one = stage.add([3] * 10)
    for tokens in (6, 4, 1, 1):
        stage.play((one, tokens))
    stage.play(evict=[one])
    assert (one.slot, one.pending, stage.core.kv_tokens) == (None, 13, 0)
    again = stage.play((one, one.pending))
    assert again and (again.prefill, again.decodes, again.swapped) == (13, 0, 0)
    assert again.attended == 13 * 14 // 2
    assert stage.runner.computed[one] == [6, 4, 1, 1, 13]


def test_a_swapped_text_comes_back_without_computing() -> None:
    stage = Stage(Limits(1000, 1, preemption="swap"))
    one, other = stage.add([3] * 10), stage.add([4] * 3)
    stage.play((one, 10))
    away = stage.play((other, 3), evict=[one])
    assert away and (away.swapped, away.running, away.waiting) == (10, 1, 1)
    stage.core.limits = Limits(1000, 1, preemption="recompute")  # the copy in the store still comes back
    back = stage.play((one, 1), evict=[other])
    assert back and (back.swapped, back.decodes, back.attended) == (10, 1, 11)
    assert stage.runner.computed[one] == [10, 1]


def test_a_sequence_that_leaves_while_it_waits_is_forgotten() -> None:
    stage = Stage(Limits(1000, 1, preemption="swap"))
    one = stage.add([3] * 10)
    stage.play((one, 10))
    stage.play(evict=[one])
    assert one in stage.runner.store
    ends: list[tuple[str, str]] = []
    one.end = lambda *reason: ends.append(reason)  # type: ignore[method-assign]
    stage.core.drop(one, "overloaded", "too late")
    assert ends == [("overloaded", "too late")]
    assert (stage.runner.store, stage.core.waiting) == ({}, [])
    assert stage.records[-1] == Moved(stage.runner.now_s, one.number, "dropped")


def test_free_slots_are_given_from_the_lowest() -> None:
    stage = Stage(Limits(1000, 4))
    first, second, third = (stage.add([1]) for _ in range(3))
    stage.play((first, 1), (second, 1), (third, 1))
    assert [s.slot for s in (first, second, third)] == [0, 1, 2]
    stage.core.drop(first)
    stage.core.drop(third)
    later = stage.add([1])
    stage.play((later, 1))
    assert later.slot == 0
    assert stage.core.running == [second, later]
    again = stage.play((second, 1), evict=[second])
    assert again and stage.core.running == [second, later]


def test_a_cached_prefix_is_not_computed() -> None:
    stage = Stage(Limits(1000, 2), prefix_tokens=10 * BLOCK)
    prompt = list(range(3 * BLOCK))
    one, other, alike = stage.add(prompt), stage.add([*prompt, 7, 8]), stage.add(prompt)
    stage.play((one, len(prompt)))
    stage.play((other, other.pending))
    stage.core.drop(other)
    last = stage.play((alike, alike.pending))
    assert last and last.cached == 2 * BLOCK
    assert stage.runner.computed == {one: [3 * BLOCK], other: [2], alike: [BLOCK]}


def test_an_answer_is_kept_with_its_prompt_when_it_ends() -> None:
    stage = Stage(Limits(1000, 2), prefix_tokens=10 * BLOCK)
    one = stage.add([3] * BLOCK, max_tokens=BLOCK + 1)
    stage.play((one, BLOCK))
    for _ in range(BLOCK):
        last = stage.play((one, 1))
    assert one.finished and last and (last.kv_tokens, last.running) == (0, 1)
    longer = stage.add(one.tokens)
    stage.play((longer, longer.pending))
    assert stage.runner.computed[longer] == [1]


def test_an_iteration_counts_what_it_did() -> None:
    stage = Stage(Limits(1000, 4))
    one, other, waiting = stage.add([3] * 10), stage.add([4] * 20), stage.add([5])
    stage.play((one, 10))
    done = stage.play((one, 1), (other, 6))
    tokens = {"prefill": 6, "decodes": 1, "attended": 11 + 21, "swapped": 0}
    after = {"kv_tokens": blocks(11) + blocks(6), "running": 2, "waiting": 1}
    assert done == Iteration(0.01, 0.02, **tokens, **after, emitted=[one.number])
    assert (other.computed, other.generated, waiting.state) == (6, 0, "waiting")


def test_a_late_watcher_gets_the_requests_that_are_here_and_their_states() -> None:
    stage = Stage(Limits(1000, 4))
    leaving, decoding, reading, paused, evicted, waiting = (
        stage.add([n] * 9, 3 if n else 1) for n in range(6)
    )
    stage.play(*((sequence, 9) for sequence in (leaving, decoding, paused)))
    stage.play((evicted, 2))
    stage.play((decoding, 1), (reading, 4), evict=[evicted])
    late: list[Record] = []
    stage.core.watch(late.append)
    stage.core.watch(late.append)
    now_s = stage.runner.now_s
    assert [(r.request, r.at_s) for r in late if isinstance(r, Arrived)] == [(n, now_s) for n in range(1, 6)]
    states = {r.request: r.state for r in late if isinstance(r, Moved)}
    assert states == {1: "decode", 2: "prefill", 3: "paused", 4: "evicted", 5: "waiting"}
    assert len(stage.core.watchers) == 2
    stage.play((waiting, 9))
    assert isinstance(late[-1], Iteration)


def test_a_watcher_that_leaves_or_fails_hides_nothing_from_the_next(caplog: pytest.LogCaptureFixture) -> None:
    stage = Stage(Limits(1000, 1))
    records: list[Record] = []

    def leaves(record: Record) -> None:
        stage.core.watchers.leave(leaves)

    def fails(record: Record) -> None:
        raise RuntimeError("this view is broken")

    for watcher in (leaves, fails, records.append):
        stage.core.watch(watcher)
    stage.play((stage.add([3] * 4), 4))
    assert [type(record) for record in records] == [Arrived, Moved, Moved, Iteration]
    assert len(stage.core.watchers) == 2  # with the stage's own
    assert "this view is broken" in caplog.text


def test_a_watcher_that_leaves_before_it_is_welcome_gets_no_record() -> None:
    stage = Stage(Limits(1000, 1))
    early: list[Record] = []
    stage.core.watchers.join(early.append)
    stage.core.watchers.leave(early.append)
    stage.core.welcome()
    stage.add([3])
    assert early == [] and len(stage.core.watchers) == 1


def test_a_watcher_can_leave_during_its_introduction() -> None:
    stage = Stage(Limits(1000, 1))
    stage.add([3])
    records: list[Record] = []

    def once(record: Record) -> None:
        records.append(record)
        stage.core.watchers.leave(once)

    stage.core.watch(once)
    stage.add([4])
    assert [type(record) for record in records] == [Arrived]


def test_a_swap_without_an_iteration_counts_in_the_next_one() -> None:
    stage = Stage(Limits(1000, 1, preemption="swap"))
    one, other = stage.add([3] * 10), stage.add([4] * 3)
    stage.play((one, 10))
    assert stage.play(evict=[one]) is None
    then, after = stage.play((other, 3)), stage.play((other, 1))
    assert then and after and (then.swapped, after.swapped) == (10, 0)


def test_the_core_measures_what_iterations_cost() -> None:
    stage = Stage(Limits(1000, 1, preemption="swap"))
    estimates = stage.core.estimates
    one, other = stage.add([3] * 5), stage.add([4] * 3)
    stage.play((one, 4))
    assert estimates.prefill_token_s == pytest.approx(0.01 / 4)  # the first counts alone
    stage.play((one, 1))
    stage.play((one, 1))
    assert estimates.step_s == pytest.approx(0.01)
    estimates.step_s, read_s = 0.004, estimates.prefill_token_s
    stage.play((other, 3), evict=[one])
    assert (estimates.prefill_token_s, estimates.swap_token_s) == (read_s, 0.0)  # it both read and moved
    stage.play((one, 1), evict=[other])
    assert estimates.swap_token_s == pytest.approx(0.006 / 9)
