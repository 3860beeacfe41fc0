"""Prompts first, whole and alone, as early vLLM did: the best TTFT, and long gaps in the answers."""

from labkit.engine.scheduler import Filling, Plan, Situation


class PrefillFirst:
    """While any prompt that fits is unread, nobody decodes."""

    name = "prefill_first"

    def plan(self, situation: Situation) -> Plan:
        filling = Filling(situation)
        everybody = [*situation.running, *situation.waiting]
        filling.fill(sequence for sequence in everybody if not sequence.decoding)
        if not filling.plan.run:
            going = [sequence for sequence in everybody if sequence.decoding or sequence in filling]
            filling.fill(going, victims=situation.running[::-1])
        return filling.plan
