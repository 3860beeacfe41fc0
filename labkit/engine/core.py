"""The iteration loop: ask the policy, make room, compute, hand over.

It knows neither the model nor the clock: the engine gives it a runner that computes and the time of day, the
simulator one that moves a clock of its own by what the computing would cost. Nor does it know which policy
runs.
"""

import logging
from bisect import insort
from collections.abc import Callable
from collections.abc import Sequence as Many
from contextlib import suppress
from operator import attrgetter
from typing import NamedTuple, Protocol

import msgspec

from labkit.engine import trace
from labkit.engine.prefix import PrefixIndex
from labkit.engine.scheduler import BLOCK, Estimates, Limits, Plan, Policy, Situation, blocks, check
from labkit.engine.sequence import Sequence

Work = tuple[Sequence, int]
"""A sequence and how many of its pending tokens to compute."""

SMOOTHING = 0.2
"""The weight of the newest iteration in the estimates, but for the first, which is all there is."""


class Counts(NamedTuple):
    """What an iteration computes; the fields are those of `labkit.engine.trace.Iteration`."""

    prefill: int
    decodes: int
    attended: int


def counts(work: Many[Work]) -> Counts:
    """To be asked before it is computed."""
    prefill = decodes = attended = 0
    for sequence, tokens in work:
        attended += tokens * sequence.computed + tokens * (tokens + 1) // 2
        if sequence.decoding:
            decodes += 1
        else:
            prefill += tokens
    return Counts(prefill, decodes, attended)


_log = logging.getLogger(__name__)


class Runner(Protocol):
    """What computes: the model and where its keys and values are."""

    def run(self, work: Many[Work]) -> list[int | None]:
        """Compute; a new token for each sequence that has no tokens pending after it, None for the others."""

    def swap_out(self, sequence: Sequence) -> None:
        """Copy what is computed to the store outside."""

    def swap_in(self, sequence: Sequence) -> None:
        """Copy it back into the sequence's slot, and forget the copy."""

    def forget(self, sequence: Sequence) -> None:
        """Drop the copy in the store, if there is one: the sequence is not coming back."""

    def keep_blocks(self, sequence: Sequence, kept: Many[tuple[int, int]]) -> None:
        """Copy blocks (number in the sequence, place) into the prefix cache."""

    def use_blocks(self, sequence: Sequence, places: Many[int]) -> None:
        """Copy the prefix cache's blocks at these places to the beginning of the sequence's slot."""


class Core:
    """All sequences between arrival and end, and what happens to them. One thread calls it.

    Args:
        clock: seconds; read before and after each iteration.
        prefix_tokens: the size of the prefix cache; 0 for none.
    """

    def __init__(
        self,
        runner: Runner,
        policy: Policy,
        limits: Limits,
        clock: Callable[[], float],
        prefix_tokens: int = 0,
    ) -> None:
        self.runner = runner
        self.policy = policy
        self.limits = limits
        self.clock = clock
        self.prefix = PrefixIndex(prefix_tokens) if prefix_tokens else None
        self.estimates = Estimates()
        self.running: list[Sequence] = []
        self.waiting: list[Sequence] = []
        self.watchers: list[trace.Watcher] = []
        self._slots = list(reversed(range(limits.seqs)))
        self._numbered = 0
        # since the last iteration that computed: evictions may come without one
        self._moved_tokens = self._cached_tokens = 0

    @property
    def kv_tokens(self) -> int:
        """Tokens of the blocks that are in use."""
        return sum(blocks(sequence.computed) for sequence in self.running if not sequence.finished)

    def watch(self, watcher: trace.Watcher) -> None:
        """Tell every record to `watcher` from now on, and first who is here, as if they came just now."""
        if watcher not in self.watchers:
            self.watchers.append(watcher)
            self.introduce(watcher)

    def unwatch(self, watcher: trace.Watcher) -> None:
        """Tell it no more; any thread may say so, the watcher itself too."""
        with suppress(ValueError):
            self.watchers.remove(watcher)

    def introduce(self, watcher: trace.Watcher) -> None:
        """Tell one of the watchers who is here, as if they came just now."""
        now_s = self.clock()
        for sequence in sorted((*self.running, *self.waiting), key=attrgetter("number")):
            self._tell_one(watcher, msgspec.structs.replace(_record_of(sequence), at_s=now_s))
            self._tell_one(watcher, trace.Moved(now_s, sequence.number, sequence.state))

    def add(self, sequence: Sequence) -> None:
        """A request has come."""
        sequence.number = self._numbered
        self._numbered += 1
        insort(self.waiting, sequence, key=_by_arrival)
        if self.watchers:
            self._tell(_record_of(sequence))
            self._tell(trace.Moved(sequence.arrival_s, sequence.number, "waiting"))

    def drop(self, sequence: Sequence, code: str = "engine_failed", message: str = "it was dropped") -> None:
        """End a request before its last token, since its reader has left, say; what it holds is free."""
        sequence.end(code, message)
        self._remove(sequence)
        self._move(sequence, "finished" if sequence.finished else "dropped", self.clock())

    def close(self) -> None:
        """Let go of everybody, and of the runner with its memory; nothing can be computed after that."""
        self.running.clear()
        self.waiting.clear()
        del self.runner

    def iterate(self) -> Plan:
        """Run one iteration; where the plan that it returns has nobody in `run`, nothing was computed.

        Raises:
            ValueError: the policy's plan is none that can be carried out within the limits.
        """
        began_s, policy = self.clock(), self.policy  # which another thread may change
        situation = Situation(began_s, self.running, self.waiting, self.limits, self.estimates)
        plan = policy.plan(situation)
        check(plan, situation, policy.name)
        for sequence in plan.evict:
            self._evict(sequence, began_s)
        work = [(sequence, self._admitted(sequence, tokens)) for sequence, tokens in plan.run]
        self._tell_states(work, began_s)
        if work:
            self._compute(work, began_s)
        return plan

    def _compute(self, work: list[Work], began_s: float) -> None:
        counted = counts(work)
        chosen = self.runner.run(work)
        ended_s = self.clock()
        for (sequence, tokens), token in zip(work, chosen, strict=True):
            sequence.computed += tokens
            if token is not None:
                if self.prefix is not None and not sequence.generated:
                    self._keep(sequence)
                sequence.push(token, ended_s)
        self._estimate(ended_s - began_s, counted.prefill)
        if self.watchers:
            emitted = [s.number for (s, _), token in zip(work, chosen, strict=True) if token is not None]
            kept = (self.kv_tokens, len(self.running), len(self.waiting))
            told = (*counted, self._moved_tokens, *kept, emitted, self._cached_tokens)
            self._tell(trace.Iteration(began_s, ended_s, *told))
        self._moved_tokens = self._cached_tokens = 0
        for sequence, _ in work:
            if sequence.finished:
                self._end(sequence, ended_s)

    def _admitted(self, sequence: Sequence, tokens: int) -> int:
        """Give it a slot if it has none; returns how many tokens are left to compute of those granted."""
        if sequence.slot is not None:
            return tokens
        self.waiting.remove(sequence)
        insort(self.running, sequence, key=_by_arrival)
        sequence.slot = self._slots.pop()
        if sequence.swapped:
            self.runner.swap_in(sequence)
            sequence.swapped = False
            self._moved_tokens += sequence.computed
        elif self.prefix is not None:
            self._reuse(sequence)
        if sequence.first_s is None and not sequence.preemptions:
            sequence.begin()
        return min(tokens, sequence.pending)

    def _reuse(self, sequence: Sequence) -> None:
        assert self.prefix is not None
        # one token at least is computed, since the next is chosen from what it gives
        places = self.prefix.match(sequence.tokens[:-1])
        if places:
            self.runner.use_blocks(sequence, places)
            sequence.computed = len(places) * BLOCK
            self._cached_tokens += sequence.computed

    def _keep(self, sequence: Sequence) -> None:
        assert self.prefix is not None
        kept = self.prefix.add(sequence.tokens[: sequence.computed])
        if kept:
            self.runner.keep_blocks(sequence, kept)

    def _evict(self, sequence: Sequence, now_s: float) -> None:
        sequence.preemptions += 1
        if self.limits.preemption == "swap":
            self.runner.swap_out(sequence)
            sequence.swapped = True
            self._moved_tokens += sequence.computed
        else:
            sequence.computed = 0
        self._free(sequence)
        insort(self.waiting, sequence, key=_by_arrival)
        self._move(sequence, "swapped" if sequence.swapped else "evicted", now_s)

    def _end(self, sequence: Sequence, now_s: float) -> None:
        if self.prefix is not None:
            self._keep(sequence)
        self._remove(sequence)
        self._move(sequence, "finished", now_s)

    def _remove(self, sequence: Sequence) -> None:
        if sequence.slot is not None:
            self._free(sequence)
        else:
            self.waiting.remove(sequence)
            self.runner.forget(sequence)

    def _free(self, sequence: Sequence) -> None:
        assert sequence.slot is not None
        self.running.remove(sequence)
        # the lowest free slot is given first: neighbours are computed faster
        insort(self._slots, sequence.slot, key=_descending)
        sequence.slot = None

    def _estimate(self, took_s: float, prefill: int) -> None:
        """Learn from an iteration, but not from one that both read and moved: which of them took how long?"""
        known, moved = self.estimates, self._moved_tokens
        more_s = max(0.0, took_s - known.step_s)
        if not prefill and not moved:
            known.step_s = _smoothed(known.step_s, took_s)
        elif not moved:
            known.prefill_token_s = _smoothed(known.prefill_token_s, more_s / prefill)
        elif not prefill:
            known.swap_token_s = _smoothed(known.swap_token_s, more_s / moved)

    def _tell_states(self, work: list[Work], now_s: float) -> None:
        computing: dict[Sequence, trace.State] = {s: "decode" if s.decoding else "prefill" for s, _ in work}
        for sequence in self.running:
            # one that only keeps to its pace goes on doing what it did
            paced = not (sequence.ready or sequence.stalled)
            self._move(sequence, computing.get(sequence, sequence.state if paced else "paused"), now_s)

    def _move(self, sequence: Sequence, state: trace.State, now_s: float) -> None:
        if state != sequence.state:
            sequence.state = state
            self._tell(trace.Moved(now_s, sequence.number, state))

    def _tell(self, record: trace.Record) -> None:
        for watcher in tuple(self.watchers):  # one that leaves meanwhile must not hide the next
            self._tell_one(watcher, record)

    def _tell_one(self, watcher: trace.Watcher, record: trace.Record) -> None:
        if watcher not in self.watchers:
            return
        try:
            watcher(record)
        except Exception:  # what goes wrong in a view ends the view and not the answers
            _log.exception("a watcher of the scheduler failed and is told no more")
            self.unwatch(watcher)


def _record_of(sequence: Sequence) -> trace.Arrived:
    return trace.Arrived(
        sequence.arrival_s,
        sequence.number,
        sequence.name,
        sequence.prompt_tokens,
        sequence.max_tokens,
        sequence.reader_tps,
    )


def _smoothed(known_s: float, new_s: float) -> float:
    return known_s + SMOOTHING * (new_s - known_s) if known_s else new_s


_by_arrival = attrgetter("arrival_s")


def _descending(slot: int) -> int:
    return -slot
