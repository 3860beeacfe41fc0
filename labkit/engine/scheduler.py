"""Who computes in the next iteration: what a policy is told, what it answers, and how it fills an iteration.

A policy is one small file in `labkit.engine.policies`. It knows no model, no thread and no clock of its
own, so the engine and the simulator run the same one.
"""

from collections.abc import Iterable
from collections.abc import Sequence as Many
from dataclasses import dataclass, field
from itertools import chain, takewhile
from typing import Literal, Protocol

from labkit.engine.sequence import Sequence

BLOCK = 16
"""KV memory is given out in blocks of so many tokens (vLLM's default; PagedAttention, arXiv 2309.06180)."""

NO_LIMIT = 1 << 40

Memory = Literal["reserve", "optimistic"]
Preemption = Literal["recompute", "swap"]


@dataclass(frozen=True)
class Limits:
    """What every policy has to keep to, and the switches that any policy can use.

    Args:
        kv_tokens: tokens whose keys and values can be held at once.
        seqs: sequences that can hold some (vLLM's `max_num_seqs`).
        budget: tokens computed in one iteration, so that a long prompt is cut into chunks; 0 for no limit
            (vLLM's `max_num_batched_tokens`).
        memory: `reserve` room for the longest answer at admission, so that nothing is ever evicted for want
            of memory (Orca), or be `optimistic`, take room token by token, and preempt when there is none
            (vLLM).
        preemption: whether an evicted sequence's KV is dropped and computed again, or swapped out and in.
    """

    kv_tokens: int
    seqs: int
    budget: int = 0
    memory: Memory = "reserve"
    preemption: Preemption = "recompute"


@dataclass
class Estimates:
    """What an iteration costs, in seconds, as lately measured by the core: for policies that look ahead."""

    step_s: float = 0.0
    prefill_token_s: float = 0.0
    swap_token_s: float = 0.0


@dataclass(frozen=True)
class Situation:
    """All that a policy knows: who holds KV (`running`) and who does not (`waiting`), each by arrival."""

    now_s: float
    running: Many[Sequence]
    waiting: Many[Sequence]
    limits: Limits
    estimates: Estimates

    def restore_s(self, sequence: Sequence) -> float:
        """How long it takes to make an eviction undone: all of it, or what is left where it has happened."""
        known = self.estimates
        if sequence.slot is None:
            swap_in_s = sequence.computed * known.swap_token_s
            return swap_in_s if sequence.swapped else sequence.pending * known.prefill_token_s
        if self.limits.preemption == "swap":
            return 2 * sequence.computed * known.swap_token_s
        return sequence.computed * known.prefill_token_s


@dataclass
class Plan:
    """One iteration: who computes how many tokens, and who gives up its KV first.

    Everybody else who holds KV is paused. `rest_s`, where nobody computes, is when to ask again at the
    latest; None waits for something to happen.
    """

    run: list[tuple[Sequence, int]] = field(default_factory=list)
    evict: list[Sequence] = field(default_factory=list)
    rest_s: float | None = None


class Policy(Protocol):
    """Decides one iteration at a time; may keep state between them."""

    name: str

    def plan(self, situation: Situation) -> Plan:
        """Who computes next, within `situation.limits`; `check` says what no plan may do."""


def blocks(tokens: int) -> int:
    """The tokens of the blocks that so many tokens take."""
    return -(-tokens // BLOCK) * BLOCK


def room_for(sequence: Sequence, tokens: int, limits: Limits) -> int:
    """KV tokens that a sequence takes once it has `tokens` of them computed."""
    return blocks(max(tokens, sequence.longest) if limits.memory == "reserve" else tokens)


def check(plan: Plan, situation: Situation, policy: str) -> None:
    """Refuse a plan that the core cannot carry out, or not within the limits; cheap enough for every one.

    Where a limit was lowered there may be too much already, but never more.

    Raises:
        ValueError: it says which policy wants what.
    """
    problem = _unplayable(plan, situation) or _beyond_limits(plan, situation)
    if problem:
        raise ValueError(f"policy {policy!r} {problem}")


def _unplayable(plan: Plan, situation: Situation) -> str | None:
    holding = set(situation.running)
    if len(set(plan.evict)) < len(plan.evict) or len(dict(plan.run)) < len(plan.run):
        return "names a sequence twice"
    if not holding.issuperset(plan.evict):
        return "evicts a sequence that holds no KV"
    for sequence, tokens in plan.run:
        if sequence not in holding and sequence not in situation.waiting:
            return "runs a sequence that is not here"
        if not sequence.ready:
            return "runs a sequence that is not ready"
        if not 1 <= tokens <= sequence.pending:
            return f"gives {tokens} tokens to a sequence that has {sequence.pending} pending"
    return None


def _beyond_limits(plan: Plan, situation: Situation) -> str | None:
    limits, granted = situation.limits, dict(plan.run)
    tokens = sum(granted.values())
    if tokens > (limits.budget or NO_LIMIT):
        return f"computes {tokens} tokens in one iteration: the budget is {limits.budget}"
    staying = set(situation.running).difference(plan.evict)
    coming = granted.keys() - staying
    seqs = len(staying) + len(coming)
    if seqs > max(limits.seqs, len(situation.running)):
        return f"lets {seqs} sequences hold KV: seqs is {limits.seqs}"
    if limits.memory == "reserve" and not coming:
        return None  # who is here has had room for all of its text from the beginning
    kv_tokens = sum(room_for(s, s.computed + granted.get(s, 0), limits) for s in staying)
    # who comes in may find all of its text in the prefix cache
    kv_tokens += sum(room_for(s, len(s.tokens), limits) for s in coming)
    if kv_tokens > limits.kv_tokens and kv_tokens > _held(situation):
        return f"takes {kv_tokens} tokens of KV: kv_tokens is {limits.kv_tokens}"
    return None


def _held(situation: Situation) -> int:
    return sum(room_for(sequence, sequence.computed, situation.limits) for sequence in situation.running)


class Filling:
    """Fills one iteration with one sequence after the other, as far as budget, seats and memory go."""

    def __init__(self, situation: Situation, budget: int | None = None) -> None:
        limits = situation.limits
        self.plan = Plan()
        self._limits = limits
        self._held = {s: room_for(s, s.computed, limits) for s in situation.running}
        self._taken: set[Sequence] = set()
        self.free = limits.kv_tokens - sum(self._held.values())
        self.seats = limits.seqs - len(self._held)
        self._stalled = [sequence for sequence in situation.running if sequence.stalled]
        self.budget = (limits.budget if budget is None else budget) or NO_LIMIT

    def __contains__(self, sequence: Sequence) -> bool:
        """Whether it holds KV in this iteration."""
        return sequence in self._held

    def fill(self, ranked: Iterable[Sequence], victims: Many[Sequence] = ()) -> None:
        """Take them in this order up to the first without KV for whom there is no room: nobody overtakes it.

        Those whose readers have stalled make room for anybody. Beyond that, where one who holds KV needs
        more, `victims` are evicted for it, the first first, but none that was taken, and not the one itself.
        """
        for sequence in ranked:
            if self.budget <= 0:
                return
            if not sequence.ready:
                continue
            holds = sequence in self._held
            if not self.take(sequence, chain(self._stalled, victims if holds else ())) and not holds:
                return

    def take(self, sequence: Sequence, victims: Iterable[Sequence] = ()) -> bool:
        """Let this one compute as many of its tokens as the budget has left; False if there is no room."""
        if sequence in self._taken or self.budget <= 0:
            return False
        tokens = min(sequence.pending, self.budget)
        held = self._held.get(sequence, 0)
        seat = 0 if sequence in self._held else 1
        # who comes in has room for all of its text, since the prefix cache may have much of it
        computed = len(sequence.tokens) if seat else sequence.computed + tokens
        more = max(0, room_for(sequence, computed, self._limits) - held)
        leaving = self._leaving(more, seat, takewhile(lambda victim: victim is not sequence, victims))
        if leaving is None:
            return False
        for victim in leaving:
            self.evict(victim)
        self.free -= more
        self.seats -= seat
        self.budget -= tokens
        self._held[sequence] = held + more
        self._taken.add(sequence)
        self.plan.run.append((sequence, tokens))
        return True

    def _leaving(self, room: int, seats: int, victims: Iterable[Sequence]) -> list[Sequence] | None:
        """The first of the victims, as many as it takes; None where not even all of them are enough."""
        room, seats = room - self.free, seats - self.seats
        leaving: list[Sequence] = []
        queue = (victim for victim in victims if victim in self._held and victim not in self._taken)
        while room > 0 or seats > 0:
            victim = next(queue, None)
            if victim is None:
                return None
            if victim not in leaving:
                leaving.append(victim)
                room -= self._held[victim]
                seats -= 1
        return leaving

    def evict(self, sequence: Sequence) -> None:
        """Free what a sequence holds, unless it computes in this iteration."""
        if sequence in self._held and sequence not in self._taken:
            self.free += self._held.pop(sequence)
            self.seats += 1
            self.plan.evict.append(sequence)
