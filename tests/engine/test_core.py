"""The iterations of the core: no call of the runner is impossible, and no text or record is lost."""

from collections import Counter
from collections.abc import Sequence as Many
from dataclasses import replace
from random import Random

import pytest
from core_stage import Slots, Stage, next_token
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit.engine.core import Core
from labkit.engine.policies import POLICIES, create_policy
from labkit.engine.scheduler import Limits, blocks
from labkit.engine.sequence import Sequence
from labkit.engine.trace import Arrived, Iteration, Moved, Record
from labkit.engine.work import Work

AFTER = {
    "waiting": {"prefill", "dropped"},
    "prefill": {"decode", "paused", "evicted", "swapped", "finished", "dropped"},
    "decode": {"paused", "evicted", "swapped", "finished", "dropped"},
    "paused": {"prefill", "decode", "evicted", "swapped", "dropped"},
    "evicted": {"prefill", "decode", "dropped"},
    "swapped": {"prefill", "decode", "dropped"},
}

jobs_of = st.lists(st.tuples(st.integers(1, 48), st.integers(1, 32)), min_size=1, max_size=10)
memories, preemptions = st.sampled_from(["reserve", "optimistic"]), st.sampled_from(["recompute", "swap"])
kv_tokens, seqs, budgets = st.sampled_from([80, 112, 1000]), st.integers(1, 5), st.sampled_from([0, 7, 32])
limits_of = st.builds(Limits, kv_tokens, seqs, budgets, memories, preemptions)
lengths, failing = st.integers(0, 60), st.sampled_from([0.0, 0.5])
prefixes, seeds = st.sampled_from([0, 32, 320]), st.none() | st.integers(0, 99)


def lively(core: Core, sequences: Many[Sequence], random: Random, iteration: int) -> None:
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


def check_records(records: list[Record], sequences: Many[Sequence], runner: Slots) -> None:
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


class Told(Sequence):
    """It keeps the reason of its end."""

    told = ""

    def end(self, code: str, message: str) -> None:
        self.told = message


class Breaking(Slots):
    """It cannot compute a text of one length, and some of its copies fail, after a part of them was made."""

    def __init__(self, length: int, copies: float) -> None:
        super().__init__()
        self.length, self.copies, self.random = length, copies, Random(length)

    def run(self, work: Many[Work]) -> list[int | None]:
        if any(len(sequence.tokens) == self.length for sequence, _ in work):
            raise RuntimeError(f"a text of {self.length} tokens")
        return super().run(work)

    def swap_out(self, sequence: Sequence) -> None:
        self.may_fail()
        super().swap_out(sequence)

    def swap_in(self, sequence: Sequence) -> None:
        super().swap_in(sequence)
        self.may_fail()

    def keep_blocks(self, sequence: Sequence, copies: Many[tuple[int, int]]) -> None:
        super().keep_blocks(sequence, copies[:1])
        self.may_fail()
        super().keep_blocks(sequence, copies)

    def use_blocks(self, sequence: Sequence, places: Many[int]) -> None:
        super().use_blocks(sequence, places)
        self.may_fail()

    def may_fail(self) -> None:
        if self.random.random() < self.copies:
            raise MemoryError


@pytest.mark.parametrize("policy", POLICIES)
@given(
    jobs=jobs_of,
    limits=limits_of,
    prefix=prefixes,
    seed=seeds,
    length=lengths,
    copies=failing,
)
@settings(max_examples=50, deadline=None)
def test_no_call_is_impossible_and_every_text_is_right(
    policy: str,
    jobs: list[tuple[int, int]],
    limits: Limits,
    prefix: int,
    seed: int | None,
    length: int,
    copies: float,
) -> None:
    runner, records, random = Breaking(length, copies), list[Record](), Random(seed)
    core = Core(runner, create_policy(policy), limits, runner.clock, prefix)
    core.watch(records.append)
    sequences = [Told("", [1] * prompt, answer, 0.0) for prompt, answer in jobs]
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
        assert sequence.told in ("", "it was dropped", f"RuntimeError: a text of {length} tokens")
        assert seed is not None or sequence.finished != (prompt <= length < prompt + answer)
    check_records(records, sequences, runner)
    assert (core.kv_tokens, len(core._slots), runner.store) == (0, limits.seqs, {})


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
