"""Andes' scheduling by quality of experience (arXiv 2404.16283): memory goes where readers gain most."""

from math import inf

from labkit.engine.scheduler import Filling, Plan, Situation, room_for
from labkit.engine.sequence import Sequence


class Andes:
    """Each interval, chooses who holds KV: the greatest gain in QoE for each token of it first.

    Of the paper it leaves out that the gain is estimated for each candidate batch size, since the larger the
    batch the slower everybody's tokens: here whoever is served is served fast enough.

    Args:
        interval_s: how far it looks ahead, and how long a choice holds.
        ttft_s: the delay of the first token that readers expect.
        preemptions: the most preemptions, as an average over the requests since this policy came into force;
            infinity for no cap.
    """

    name = "andes"

    def __init__(self, interval_s: float = 1.0, ttft_s: float = 1.0, preemptions: float = 1.0) -> None:
        self.interval_s = interval_s
        self.ttft_s = ttft_s
        self.preemptions = preemptions
        self._until_s = 0.0
        self._first, self._last = inf, -inf
        self._preempted = 0

    def plan(self, situation: Situation) -> Plan:
        filling = Filling(situation)
        everybody = [*situation.running, *situation.waiting]
        self._count(everybody)
        ranked = sorted(everybody, key=lambda s: -self._gain(s, situation))
        if situation.now_s >= self._until_s and situation.waiting:
            self._until_s = situation.now_s + self.interval_s
            self._preempt(situation, filling, ranked)
        held = [s for s in ranked if s in filling]
        waiting = set(situation.waiting)
        filling.fill(sorted(held, key=lambda s: not s.decoding), victims=held[::-1])
        filling.fill(sequence for sequence in ranked if sequence in waiting)
        return filling.plan

    def _count(self, everybody: list[Sequence]) -> None:
        """How many requests there were: the core numbers them as they come, and other policies had theirs."""
        numbers = [sequence.number for sequence in everybody]
        self._first = min([self._first, *numbers])
        self._last = max([self._last, *numbers])

    def _preempt(self, situation: Situation, filling: Filling, ranked: list[Sequence]) -> None:
        """Evict who is not among the chosen, the least gain first, as far as the cap allows."""
        limits = situation.limits
        free, chosen = limits.kv_tokens, set[Sequence]()
        # who cannot compute now needs no KV, except that a pace lets it in a moment: it keeps what it has
        wanting = [s for s in ranked if s.ready or (s in filling and not s.stalled)]
        for sequence in wanting:
            room = room_for(sequence, len(sequence.tokens), limits)
            if room <= free and len(chosen) < limits.seqs:
                chosen.add(sequence)
                free -= room
        for sequence in reversed(wanting):
            if self._preempted >= self.preemptions * (self._last - self._first + 1):
                return
            if sequence in filling and sequence not in chosen:
                filling.evict(sequence)
                self._preempted += 1

    def _gain(self, sequence: Sequence, situation: Situation) -> float:
        """What QoE gains, for each token of KV, if it is served in the next interval instead of left out.

        QoE is the area under what its reader has taken in over that of an ideal server; without service the
        reader stops for what the interval is longer than the unread text, and one who waits for a first token
        misses nothing until the ideal server would have brought it.
        """
        lead_s = sequence.lead_s(situation.now_s)
        if sequence.first_s is None:
            lead_s = max(0.0, sequence.arrival_s + self.ttft_s - situation.now_s)
        stopped_s = max(0.0, self.interval_s - lead_s)
        age_s = situation.now_s + self.interval_s - sequence.arrival_s - self.ttft_s
        gain = (stopped_s / max(age_s, self.interval_s)) ** 2
        return gain / room_for(sequence, len(sequence.tokens), situation.limits)
