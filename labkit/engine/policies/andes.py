"""Andes' scheduling by quality of experience, QoE (arXiv 2404.16283): KV memory goes to the greatest gain."""

from math import inf

from labkit.engine.scheduler import Filling, Plan, Situation, room_for
from labkit.engine.sequence import Sequence


class Andes:
    """Chooses in each interval which sequences hold KV: those that gain the most QoE per token of KV.

    The paper estimates the gain for each candidate batch size, because tokens come more slowly in a larger
    batch. That is left out: here each sequence that is served counts as served fast enough.

    Args:
        interval_s: how far it looks ahead, and how long a choice holds.
        ttft_s: the TTFT that readers expect.
        preemptions: the most preemptions per request, as an average over the requests since the policy was
            chosen; infinity for no cap.
    """

    name = "andes"

    def __init__(self, interval_s: float = 1.0, ttft_s: float = 1.0, preemptions: float = 1.0) -> None:
        self.interval_s = interval_s
        self.ttft_s = ttft_s
        self.preemptions = preemptions
        self._until_s = 0.0
        self._first, self._last = inf, -inf
        self._preemptions = 0

    def plan(self, situation: Situation) -> Plan:
        filling = Filling(situation)
        sequences = [*situation.running, *situation.waiting]
        self._count(sequences)
        ranked = sorted(sequences, key=lambda s: -self._gain(s, situation))
        if situation.now_s >= self._until_s and situation.waiting:
            self._until_s = situation.now_s + self.interval_s
            self._preempt(situation, filling, ranked)
        holding = [s for s in ranked if s in filling]
        waiting = set(situation.waiting)
        filling.fill(sorted(holding, key=lambda s: not s.decoding), victims=holding[::-1])
        filling.fill(sequence for sequence in ranked if sequence in waiting)
        return filling.plan

    def _count(self, sequences: list[Sequence]) -> None:
        """Keep the first and the last number seen: the core numbers requests as they come."""
        numbers = [sequence.number for sequence in sequences]
        self._first = min([self._first, *numbers])
        self._last = max([self._last, *numbers])

    def _preempt(self, situation: Situation, filling: Filling, ranked: list[Sequence]) -> None:
        """Evict the sequences that are not chosen, the least gain first, as far as the cap allows."""
        limits = situation.limits
        free, chosen = limits.kv_tokens, set[Sequence]()
        # a sequence that cannot compute needs no KV now, but one that only waits for its pace keeps its own
        candidates = [s for s in ranked if s.ready or (s in filling and not s.stalled)]
        for sequence in candidates:
            room = room_for(sequence, len(sequence.tokens), limits)
            if room <= free and len(chosen) < limits.seqs:
                chosen.add(sequence)
                free -= room
        for sequence in reversed(candidates):
            if self._preemptions >= self.preemptions * (self._last - self._first + 1):
                return
            if sequence in filling and sequence not in chosen:
                filling.evict(sequence)
                self._preemptions += 1

    def _gain(self, sequence: Sequence, situation: Situation) -> float:
        """The QoE that serving a sequence in the next interval gains, per token of its KV.

        QoE is the area under the tokens that the reader has read over time, divided by that of an ideal
        server. Without service the reader stops when the unread text ends, until the end of the interval. A
        reader who waits for the first token loses nothing before the ideal server would send it.
        """
        lead_s = sequence.lead_s(situation.now_s)
        if sequence.first_s is None:
            lead_s = max(0.0, sequence.arrival_s + self.ttft_s - situation.now_s)
        stopped_s = max(0.0, self.interval_s - lead_s)
        age_s = situation.now_s + self.interval_s - sequence.arrival_s - self.ttft_s
        gain = (stopped_s / max(age_s, self.interval_s)) ** 2
        return gain / room_for(sequence, len(sequence.tokens), situation.limits)
