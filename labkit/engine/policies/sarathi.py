"""Sarathi-Serve's stall-free batching (arXiv 2403.02310): decodes first, then prompts in chunks."""

from itertools import chain

from labkit.engine.scheduler import Filling, Plan, Situation

BUDGET = 128
"""The budget if the limits have none. On one core it takes a few times as long as a decode step."""


class Sarathi:
    """Spends a token budget in each iteration: first on decodes, then on begun prompts, then on new ones.

    If the budget is below the number of sequences that decode, the latest wait until the earliest finish.
    """

    name = "sarathi"

    def plan(self, situation: Situation) -> Plan:
        filling = Filling(situation, situation.limits.budget or BUDGET)
        decoding = [sequence for sequence in situation.running if sequence.decoding]
        reading = [sequence for sequence in situation.running if not sequence.decoding]
        filling.fill(chain(decoding, reading, situation.waiting), victims=situation.running[::-1])
        return filling.plan
