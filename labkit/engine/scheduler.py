"""The interface of a policy: the situation it gets, the plan it returns, and a helper that fills a plan.

A policy decides who computes in the next iteration. It is one small file in `labkit.engine.policies`. It has
no model, no thread and no clock of its own, so the engine and the simulator run the same one.
"""

from collections.abc import Iterable
from collections.abc import Sequence as Many
from dataclasses import dataclass, field
from itertools import chain, takewhile
from typing import Annotated, Literal, Protocol

from pydantic import Field

from labkit.engine.sequence import Sequence

BLOCK = 16
"""KV memory comes in blocks of this many tokens (vLLM's default; PagedAttention, arXiv 2309.06180)."""

NO_LIMIT = 1 << 40

SMOOTHING = 0.2
"""The weight of the newest iteration in an estimate; the first iteration alone is the first estimate."""

Seqs = Annotated[int, Field(ge=1, le=1024)]
Memory = Literal["reserve", "optimistic"]
Preemption = Literal["recompute", "swap"]


@dataclass(frozen=True)
class Limits:
    """The limits that every policy keeps, and the switches that every policy has.

    Args:
        kv_tokens: the most tokens whose keys and values are held at once.
        seqs: the most sequences that hold keys and values at once (vLLM's `max_num_seqs`).
        budget: the most tokens computed in one iteration (vLLM's `max_num_batched_tokens`). A longer prompt
            is cut into chunks. 0 leaves it to the policy; most have no limit of their own.
        memory: `reserve` keeps room for the longest answer when a sequence is admitted, so that no sequence
            is evicted for want of memory (Orca). `optimistic` takes room token by token, and preempts when
            there is none (vLLM).
        preemption: an evicted sequence's KV is dropped and computed again (`recompute`), or is copied to a
            store and back (`swap`).
    """

    kv_tokens: int
    seqs: Seqs
    budget: Annotated[int, Field(ge=0)] = 0
    memory: Memory = "reserve"
    preemption: Preemption = "recompute"


@dataclass
class Estimates:
    """What recent iterations cost, in seconds, as the core measures them. Policies that look ahead use it.

    Args:
        step_s: an iteration that only decodes.
        prefill_token_s: what one prompt token adds to it.
        swap_token_s: what moving the KV of one token out or in adds to it.
    """

    step_s: float = 0.0
    prefill_token_s: float = 0.0
    swap_token_s: float = 0.0

    def learn(self, seconds: float, prefill: int, moved: int) -> None:
        """Learn from an iteration that computed `prefill` prompt tokens and moved the KV of `moved` tokens.

        An iteration that did both changes nothing, since its time cannot be divided between the two.
        """
        more_s = max(0.0, seconds - self.step_s)
        if not prefill and not moved:
            self.step_s = _smoothed(self.step_s, seconds)
        elif not moved:
            self.prefill_token_s = _smoothed(self.prefill_token_s, more_s / prefill)
        elif not prefill:
            self.swap_token_s = _smoothed(self.swap_token_s, more_s / moved)


def _smoothed(estimate_s: float, new_s: float) -> float:
    return estimate_s + SMOOTHING * (new_s - estimate_s) if estimate_s else new_s


@dataclass(frozen=True)
class Situation:
    """All that a policy knows.

    Args:
        now_s: the core's clock.
        running: the sequences that hold KV, in order of arrival.
        waiting: those that hold none, in order of arrival.
    """

    now_s: float
    running: Many[Sequence]
    waiting: Many[Sequence]
    limits: Limits
    estimates: Estimates

    def restore_s(self, sequence: Sequence) -> float:
        """The seconds that it costs to evict this sequence and bring it back, or the part still to come."""
        estimates = self.estimates
        if sequence.slot is None:
            swap_in_s = sequence.computed * estimates.swap_token_s
            return swap_in_s if sequence.swapped else sequence.pending * estimates.prefill_token_s
        if self.limits.preemption == "swap":
            return 2 * sequence.computed * estimates.swap_token_s
        return sequence.computed * estimates.prefill_token_s


@dataclass
class Plan:
    """One iteration. A sequence that holds KV and is in neither list is paused.

    Args:
        run: the sequences that compute, and how many tokens each.
        evict: the sequences that give up their KV before that.
        rest_s: if no sequence computes, the core asks the policy again after this many seconds, or when
            something happens; None means only when something happens.
    """

    run: list[tuple[Sequence, int]] = field(default_factory=list)
    evict: list[Sequence] = field(default_factory=list)
    rest_s: float | None = None


class Policy(Protocol):
    """Decides one iteration at a time; may keep state between them."""

    name: str

    def plan(self, situation: Situation) -> Plan:
        """Return the next iteration, within `situation.limits`; `check` lists what no plan may do."""


def blocks(tokens: int) -> int:
    """The tokens of whole blocks that hold `tokens`: `blocks(17)` is 32."""
    return -(-tokens // BLOCK) * BLOCK


def room_for(sequence: Sequence, tokens: int, limits: Limits) -> int:
    """The KV tokens that a sequence takes when `tokens` of it are computed."""
    return blocks(max(tokens, sequence.longest) if limits.memory == "reserve" else tokens)


def check(plan: Plan, situation: Situation, policy: str) -> None:
    """Refuse a plan that the core cannot carry out, or that exceeds the limits.

    After a limit was lowered, the sequences may hold more than it allows. Then a plan may not add to that.

    Raises:
        ValueError: the message names the policy and what its plan does.
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
        return None  # each sequence that stays has had room for its whole text since it was admitted
    kv_tokens = sum(room_for(s, s.computed + granted.get(s, 0), limits) for s in staying)
    # a sequence that comes in may find its whole text in the prefix cache
    kv_tokens += sum(room_for(s, len(s.tokens), limits) for s in coming)
    if kv_tokens > limits.kv_tokens and kv_tokens > _held(situation):
        return f"takes {kv_tokens} tokens of KV: kv_tokens is {limits.kv_tokens}"
    return None


def _held(situation: Situation) -> int:
    return sum(room_for(sequence, sequence.computed, situation.limits) for sequence in situation.running)


class Filling:
    """Fills a plan with one sequence after the other, as far as budget, seats and memory go.

    A seat is the right to hold KV; `Limits.seqs` is the number of seats.
    """

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
        """Whether the sequence holds KV in this iteration."""
        return sequence in self._held

    def fill(self, ranked: Iterable[Sequence], victims: Many[Sequence] = ()) -> None:
        """Take the sequences in this order, up to the first without KV for which there is no room.

        No sequence overtakes that one. Sequences whose readers have stalled are evicted for any other. For a
        sequence that holds KV and needs more, `victims` are evicted too, in their order, except those that
        are already taken, and only those that stand before the sequence itself.
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
        """Let a sequence compute as many of its tokens as the budget allows; False if there is no room."""
        if sequence in self._taken or self.budget <= 0:
            return False
        tokens = min(sequence.pending, self.budget)
        held = self._held.get(sequence, 0)
        seat = 0 if sequence in self._held else 1
        # one that comes in gets room for its whole text, since the prefix cache may have much of it
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
        """The first victims, as many as are needed; None if all of them are not enough."""
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
        """Take a sequence's KV away, unless the sequence computes in this iteration."""
        if sequence in self._held and sequence not in self._taken:
            self.free += self._held.pop(sequence)
            self.seats += 1
            self.plan.evict.append(sequence)
