"""TokenFlow's buffer-aware preemptive scheduling (arXiv 2510.02758), after its abstract and a reading note.

A reader with enough unread text can do without new tokens for a while, so its sequence can give up its memory
to one that waits for a first token; it comes back before the reader has run dry.

What the paper has and this has not: a working set, with a step of its own that says how many requests to
admit beyond memory (here `QUEUE` bounds them); the reading speed in the ranking (here the unread text alone,
in seconds); a weighted objective for the swap search (here the least cost of restoring over unread text); and
copies written ahead, moved while others compute.
"""

from labkit.engine.scheduler import Filling, Plan, Situation, room_for
from labkit.engine.sequence import Sequence

WORTH = 10
"""How many times what it costs to restore a sequence its absence has to last."""

QUEUE = 3
"""And how many times what it takes to compute again all who were evicted before: it bounds how many are.
A queue of those swapped out counts for nothing, since so little time brings them back."""


class TokenFlow:
    """Brings back who is about to run dry, then lets in who waits for a first token, at the cost of the full.

    Args:
        margin_s: unread text, in seconds of reading, that is never counted upon.
        hold_s: how much longer a reader's text must last before its sequence may be preempted: the time until
            that is decided anew; the longer, the fewer preemptions.
        search: whether to look for cheaper victims than those whose readers have most.
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
        """Who needs KV now, the most urgent first, as far as the budget goes; and who could wait."""
        begun = [s for s in situation.waiting if s.first_s is not None]
        begun.sort(key=lambda s: s.lead_s(situation.now_s))
        dry = [s for s in begun if s.lead_s(situation.now_s) < self._needed_s(s, situation)]
        new = [s for s in situation.waiting if s.first_s is None][: situation.limits.seqs]
        budget -= sum(sequence.pending for sequence in situation.running if sequence.ready)
        urgent: list[Sequence] = []
        for sequence in filter(lambda s: s.ready, dry + new):
            if budget <= 0:
                break
            urgent.append(sequence)
            budget -= sequence.pending
        late = set(dry)
        return urgent, [s for s in begun if s not in late]

    def _needed_s(self, sequence: Sequence, situation: Situation) -> float:
        """How much unread text it takes for a preemption, or for what is left of one, to go unnoticed."""
        return self.margin_s + situation.restore_s(sequence) + situation.estimates.step_s

    def _safe(self, sequence: Sequence, situation: Situation, queue_s: float) -> bool:
        """The safety condition, and that the time gained is worth what a preemption costs everybody."""
        worth_s = WORTH * situation.restore_s(sequence) + QUEUE * queue_s
        least_s = self._needed_s(sequence, situation) + self.hold_s + worth_s
        return sequence.decoding and sequence.lead_s(situation.now_s) > least_s

    def _victims(self, situation: Situation, filling: Filling, urgent: list[Sequence]) -> list[Sequence]:
        """Those of the safe who leave, so that as many of the urgent as possible get in."""
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
        """Spare whom it does not take, then swap a victim for somebody safe while that costs less."""

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
