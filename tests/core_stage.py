"""A core to play by hand: its policy does what a test sets, and its runner checks each call."""

from collections import defaultdict
from collections.abc import Sequence as Many
from dataclasses import dataclass, field

from labkit.engine.core import Core
from labkit.engine.scheduler import BLOCK, Limits, Plan, Situation
from labkit.engine.sequence import Sequence
from labkit.engine.trace import Iteration, Record
from labkit.engine.work import Work


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

    def check(self, slot: int) -> None: ...

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
