"""Andes' scheduling by quality of experience (arXiv 2404.16283): memory goes where readers gain most."""

from labkit.engine.scheduler import Filling, Plan, Situation, room_for
from labkit.engine.sequence import Sequence


class Andes:
    """Each interval, chooses who holds KV: the greatest gain in QoE for each token of it first.

    Args:
        interval_s: how far it looks ahead, and how long a choice holds.
        ttft_s: the delay of the first token that readers expect.
        preemptions: the most preemptions, as an average over the requests so far; infinity for no cap.
    """

    name = "andes"

    def __init__(self, interval_s: float = 1.0, ttft_s: float = 1.0, preemptions: float = 1.0) -> None:
        self.interval_s = interval_s
        self.ttft_s = ttft_s
        self.preemptions = preemptions
        self._until_s = 0.0
        self._requests = 0
        self._preempted = 0

    def plan(self, situation: Situation) -> Plan:
        filling = Filling(situation)
        # the core numbers them from 0
        self._requests = max(self._requests, *(s.number + 1 for s in situation.waiting), 0)
        ranked = sorted((*situation.running, *situation.waiting), key=lambda s: -self._gain(s, situation))
        if situation.now_s >= self._until_s and situation.waiting:
            self._until_s = situation.now_s + self.interval_s
            self._preempt(situation, filling, ranked)
        held = [s for s in ranked if s in filling]
        filling.fill(sorted(held, key=lambda s: not s.decoding), victims=held[::-1])
        filling.fill(sequence for sequence in ranked if sequence not in held)
        return filling.plan

    def _preempt(self, situation: Situation, filling: Filling, ranked: list[Sequence]) -> None:
        """Evict who is not among the chosen, the least gain first, as far as the cap allows."""
        limits = situation.limits
        free, chosen = limits.kv_tokens, set[Sequence]()
        for sequence in ranked:
            room = room_for(sequence, len(sequence.tokens), limits)
            if room <= free and len(chosen) < limits.seqs:
                chosen.add(sequence)
                free -= room
        for sequence in reversed(ranked):
            if self._preempted >= self.preemptions * self._requests:
                return
            if sequence in filling and sequence not in chosen:
                filling.evict(sequence)
                self._preempted += 1

    def _gain(self, sequence: Sequence, situation: Situation) -> float:
        """What QoE gains, for each token of KV, if it is served in the next interval instead of left out.

        QoE is the area under what its reader has taken in over that of an ideal server; without service the
        reader stops for what the interval is longer than the unread text.
        """
        stopped_s = max(0.0, self.interval_s - sequence.lead_s(situation.now_s))
        age_s = situation.now_s + self.interval_s - sequence.arrival_s - self.ttft_s
        gain = (stopped_s / max(age_s, self.interval_s)) ** 2
        return gain / room_for(sequence, len(sequence.tokens), situation.limits)
