"""TokenFlow's buffer-aware preemptive scheduling (arXiv 2510.02758), from its abstract and notes on it.

A reader with enough unread text needs no new tokens for a while. So its sequence can give up its memory to
one that waits for a first token, and comes back before the reader runs dry.

The paper has four things that are left out here: a working set, with a step that says how many requests to
admit beyond memory (`QUEUE` bounds them here); the reading speed in the ranking (here it is the unread text,
in seconds); a weighted objective of the swap search (here it is the cost of restoring over the unread text);
and copies that are written ahead, while others compute.
"""

from labkit.engine.scheduler import Filling, Plan, Situation, room_for
from labkit.engine.sequence import Sequence

WORTH = 10
"""A sequence is preempted only if it can stay away this many times as long as restoring it takes."""

QUEUE = 3
"""And this many times as long as recomputing all evicted sequences takes, which bounds how many are evicted.
Swapped sequences do not count, since they come back in very little time."""


class TokenFlow:
    """Brings back the sequences that are about to run dry, then lets in those that wait for a first token.

    For these it preempts sequences whose readers have much unread text.

    Args:
        margin_s: a reserve of unread text, in seconds of reading, that preemption leaves untouched.
        hold_s: how many seconds longer the unread text must last before its sequence may be preempted; the
            longer, the fewer preemptions.
        search: whether to look for cheaper victims than those with the most unread text.
    """

    name = "tokenflow"

    def __init__(self, margin_s: float = 0.5, hold_s: float = 1.0, search: bool = True) -> None:
        self.margin_s = margin_s
        self.hold_s = hold_s
        self.search = search

    def plan(self, situation: Situation) -> Plan:
        filling = Filling(situation)
        urgent, others = self._coming(situation, filling.budget)
        for sequence in self._victims(situation, filling, urgent):
            filling.evict(sequence)
        staying = [sequence for sequence in situation.running if sequence in filling]
        staying.sort(key=lambda s: (not s.decoding, s.lead_s(situation.now_s)))
        filling.fill(staying, victims=staying[::-1])
        filling.fill([*urgent, *others])
        return filling.plan

    def _coming(self, situation: Situation, budget: int) -> tuple[list[Sequence], list[Sequence]]:
        """The waiting sequences that need KV now, the most urgent first, up to the budget; and the others."""
        started = [s for s in situation.waiting if s.first_s is not None]
        started.sort(key=lambda s: s.lead_s(situation.now_s))
        dry = [s for s in started if s.lead_s(situation.now_s) < self._needed_s(s, situation)]
        new = [s for s in situation.waiting if s.first_s is None][: situation.limits.seqs]
        budget -= sum(sequence.pending for sequence in situation.running if sequence.ready)
        urgent: list[Sequence] = []
        for sequence in filter(lambda s: s.ready, dry + new):
            if budget <= 0:
                break
            urgent.append(sequence)
            budget -= sequence.pending
        dry_set = set(dry)
        return urgent, [s for s in started if s not in dry_set]

    def _needed_s(self, sequence: Sequence, situation: Situation) -> float:
        """The seconds of unread text that hide a preemption, or the rest of one, from the reader."""
        return self.margin_s + situation.restore_s(sequence) + situation.estimates.step_s

    def _safe(self, sequence: Sequence, situation: Situation, queue_s: float) -> bool:
        """Whether its reader will not notice a preemption, and the time gained is worth the cost."""
        worth_s = WORTH * situation.restore_s(sequence) + QUEUE * queue_s
        least_s = self._needed_s(sequence, situation) + self.hold_s + worth_s
        return sequence.decoding and sequence.lead_s(situation.now_s) > least_s

    def _victims(self, situation: Situation, filling: Filling, urgent: list[Sequence]) -> list[Sequence]:
        """The safe sequences to evict, so that as many urgent ones as possible get in."""
        limits = situation.limits
        evicted = (s for s in situation.waiting if s.first_s is not None and not s.swapped)
        queue_s = sum(situation.restore_s(sequence) for sequence in evicted)
        safe = [s for s in situation.running if self._safe(s, situation, queue_s)]
        safe.sort(key=lambda s: s.lead_s(situation.now_s))
        free, seats = filling.free, filling.seats
        victims: list[Sequence] = []
        for sequence in urgent:
            room = room_for(sequence, len(sequence.tokens), limits)
            while safe and (free < room or seats < 1):
                victims.append(safe.pop())
                free += room_for(victims[-1], victims[-1].computed, limits)
                seats += 1
            if free < room or seats < 1:
                break
            free -= room
            seats -= 1
        return self._cheaper(victims, safe, free, seats, situation) if self.search else victims

    def _cheaper(
        self, victims: list[Sequence], safe: list[Sequence], free: int, seats: int, situation: Situation
    ) -> list[Sequence]:
        """Spare victims that are not needed, then replace victims with cheaper safe sequences."""

        def cost(sequence: Sequence) -> float:
            return situation.restore_s(sequence) / sequence.lead_s(situation.now_s)

        def room(sequence: Sequence) -> int:
            return room_for(sequence, sequence.computed, situation.limits)

        for victim in sorted(victims, key=cost, reverse=True):
            if room(victim) <= free and seats > 0:
                victims.remove(victim)
                free -= room(victim)
                seats -= 1
        for other in sorted(safe, key=cost):
            victim = max(victims, key=cost, default=other)
            if cost(other) < cost(victim) and room(other) + free >= room(victim):
                victims[victims.index(victim)] = other
                free += room(other) - room(victim)
        return victims
