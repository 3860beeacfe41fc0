"""Prompts first, whole and alone, as in early vLLM: the TTFT is best, and the answers have long gaps."""

from labkit.engine.scheduler import Filling, Plan, Situation


class PrefillFirst:
    """No sequence decodes while there is an unread prompt that fits."""

    name = "prefill_first"

    def plan(self, situation: Situation) -> Plan:
        filling = Filling(situation)
        sequences = [*situation.running, *situation.waiting]
        filling.fill(sequence for sequence in sequences if not sequence.decoding)
        if not filling.plan.run:
            rest = [sequence for sequence in sequences if sequence.decoding or sequence in filling]
            filling.fill(rest, victims=situation.running[::-1])
        return filling.plan
