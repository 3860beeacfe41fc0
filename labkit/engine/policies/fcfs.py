"""First come, first served, decided anew for every token: continuous batching as in Orca (OSDI 2022)."""

from itertools import chain

from labkit.engine.scheduler import Filling, Plan, Situation


class Fcfs:
    """Who has finished leaves, who waits joins at once; prompts are read whole unless there is a budget."""

    name = "fcfs"

    def plan(self, situation: Situation) -> Plan:
        filling = Filling(situation)
        filling.fill(chain(situation.running, situation.waiting), victims=situation.running[::-1])
        return filling.plan
