"""First come, first served, decided for every token: continuous batching as in Orca (OSDI 2022)."""

from itertools import chain

from labkit.engine.scheduler import Filling, Plan, Situation


class Fcfs:
    """A finished request leaves and a waiting one joins at once. Without a budget, prompts are read whole."""

    name = "fcfs"

    def plan(self, situation: Situation) -> Plan:
        filling = Filling(situation)
        filling.fill(chain(situation.running, situation.waiting), victims=situation.running[::-1])
        return filling.plan
