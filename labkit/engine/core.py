"""The iteration loop: ask the policy for a plan, make room, compute, hand the tokens over.

It depends on no model, no clock and no policy. The engine gives it a runner that computes, and the time of
day; the simulator gives it a runner that moves a clock by what computing would cost.
"""

import logging
from bisect import insort
from collections.abc import Callable, Iterator
from operator import attrgetter
from typing import Any

from labkit.engine import trace
from labkit.engine.prefix import PrefixIndex
from labkit.engine.scheduler import BLOCK, Estimates, Limits, Plan, Policy, Situation, blocks, check
from labkit.engine.sequence import Sequence
from labkit.engine.work import Runner, Work, counts, run
from labkit.errors import in_one_line

_log = logging.getLogger(__name__)


class Core:
    """Holds all sequences from their arrival to their end, and moves them on. One thread calls it.

    Args:
        clock: gives seconds; it is read before and after each iteration.
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
        self.watchers = trace.Watchers()
        self._slots = list(reversed(range(limits.seqs)))
        self._arrivals = 0
        # since the last iteration that computed, because a plan may evict and compute nothing
        self._moved_tokens = self._cached_tokens = 0

    @property
    def kv_tokens(self) -> int:
        """How many tokens the blocks in use can hold."""
        return sum(blocks(sequence.computed) for sequence in self.running if not sequence.finished)

    def watch(self, watcher: trace.Watcher) -> None:
        """Give `watcher` the sequences that are here, as if they came just now, and then every record."""
        self.watchers.join(watcher)
        self.welcome()

    def welcome(self) -> None:
        """Introduce the watchers that have joined from another thread to the sequences that are here."""
        self.watchers.welcome(self._introduction)

    def _introduction(self) -> Iterator[trace.Record]:
        now_s = self.clock()
        for sequence in sorted((*self.running, *self.waiting), key=attrgetter("number")):
            yield _arrival(sequence, now_s)
            yield trace.Moved(now_s, sequence.number, sequence.state)

    def add(self, sequence: Sequence) -> None:
        """Add a request that arrives."""
        sequence.number = self._arrivals
        self._arrivals += 1
        insort(self.waiting, sequence, key=_by_arrival)
        if self.watchers:
            self.watchers.tell(_arrival(sequence, sequence.arrival_s))
            self.watchers.tell(trace.Moved(sequence.arrival_s, sequence.number, "waiting"))

    def drop(self, sequence: Sequence, code: str = "engine_failed", message: str = "it was dropped") -> None:
        """End a request before its last token and free its memory, for instance when its reader leaves."""
        sequence.end(code, message)
        self._remove(sequence)
        self._move(sequence, "finished" if sequence.finished else "dropped", self.clock())

    def close(self) -> None:
        """Drop all sequences, and the runner with its memory; nothing can be computed after that."""
        self.running.clear()
        self.waiting.clear()
        del self.runner

    def iterate(self) -> Plan:
        """Run one iteration and return its plan; where `run` is empty, nothing was computed.

        Raises:
            ValueError: the plan cannot be carried out, or exceeds the limits.
        """
        began_s, policy = self.clock(), self.policy  # another thread may change it
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
        work, chosen, faults = run(self.runner, work)
        for sequence, reason in faults.items():
            self.drop(sequence, message=reason)
        if not work:
            return
        ended_s, computed = self.clock(), counts(work)
        for (sequence, tokens), token in zip(work, chosen, strict=True):
            sequence.computed += tokens
            if token is not None:
                if self.prefix is not None and not sequence.generated:
                    self._keep(sequence)
                sequence.push(token, ended_s)
        self.estimates.learn(ended_s - began_s, computed.prefill, self._moved_tokens)
        if self.watchers:
            emitted = [s.number for (s, _), token in zip(work, chosen, strict=True) if token is not None]
            held = (self.kv_tokens, len(self.running), len(self.waiting))
            fields = (*computed, self._moved_tokens, *held, emitted, self._cached_tokens)
            self.watchers.tell(trace.Iteration(began_s, ended_s, *fields))
        self._moved_tokens = self._cached_tokens = 0
        for sequence, _ in work:
            if sequence.finished:
                self._end(sequence, ended_s)

    def _admitted(self, sequence: Sequence, tokens: int) -> int:
        """Give the sequence a slot if it has none; return how many of its `tokens` are left to compute."""
        if sequence.slot is not None:
            return tokens
        self.waiting.remove(sequence)
        insort(self.running, sequence, key=_by_arrival)
        sequence.slot = self._slots.pop()
        if sequence.swapped:
            self._bring_back(sequence)
        elif self.prefix is not None:
            self._reuse(sequence)
        if sequence.first_s is None and not sequence.preemptions:
            sequence.begin()
        return min(tokens, sequence.pending)

    def _bring_back(self, sequence: Sequence) -> None:
        sequence.swapped = False
        if _copied(self.runner.swap_in, sequence):
            self._moved_tokens += sequence.computed
        else:
            self.runner.forget(sequence)
            sequence.computed = 0

    def _reuse(self, sequence: Sequence) -> None:
        assert self.prefix is not None
        # all but the last token, which is computed in any case: the next is chosen from its logits
        places = self.prefix.match(sequence.tokens[:-1])
        if places and _copied(self.runner.use_blocks, sequence, places):
            sequence.computed = len(places) * BLOCK
            self._cached_tokens += sequence.computed

    def _keep(self, sequence: Sequence) -> None:
        assert self.prefix is not None
        copies = self.prefix.add(sequence.tokens[: sequence.computed])
        if copies and not _copied(self.runner.keep_blocks, sequence, copies):
            self.prefix.clear()

    def _evict(self, sequence: Sequence, now_s: float) -> None:
        sequence.preemptions += 1
        sequence.swapped = self.limits.preemption == "swap" and _copied(self.runner.swap_out, sequence)
        if sequence.swapped:
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
        # the lowest free slot is used first, because neighbouring slots are computed faster
        insort(self._slots, sequence.slot, key=_descending)
        sequence.slot = None

    def _tell_states(self, work: list[Work], now_s: float) -> None:
        computing: dict[Sequence, trace.State] = {s: "decode" if s.decoding else "prefill" for s, _ in work}
        for sequence in self.running:
            # one that only waits for its pace keeps its state
            paced = not (sequence.ready or sequence.stalled)
            self._move(sequence, computing.get(sequence, sequence.state if paced else "paused"), now_s)

    def _move(self, sequence: Sequence, state: trace.State, now_s: float) -> None:
        if state != sequence.state:
            sequence.state = state
            self.watchers.tell(trace.Moved(now_s, sequence.number, state))


def _arrival(sequence: Sequence, at_s: float) -> trace.Arrived:
    return trace.Arrived(
        at_s,
        sequence.number,
        sequence.name,
        sequence.prompt_tokens,
        sequence.max_tokens,
        sequence.reader_tps,
    )


def _copied(copy: Callable[..., None], *what: Any) -> bool:
    """Whether keys and values were copied. Where memory is too short for that, they are computed again."""
    try:
        copy(*what)
    except (MemoryError, RuntimeError) as error:  # torch raises a RuntimeError
        _log.warning("keys and values could not be copied: %s", in_one_line(error))
        return False
    return True


_by_arrival = attrgetter("arrival_s")


def _descending(slot: int) -> int:
    return -slot
