"""Sarathi-Serve's stall-free batching (arXiv 2403.02310): decodes first, then prompts in chunks."""

from itertools import chain

from labkit.engine.scheduler import Filling, Plan, Situation

BUDGET = 128
"""Tokens of an iteration where the limits set none: a few times the time of a decode step on one core."""


class Sarathi:
    """A token budget for each iteration: those who decode, then prompts begun, then new ones.

    With a budget below the number of those who decode, the latest of them wait until the earliest finish.
    """

    name = "sarathi"

    def plan(self, situation: Situation) -> Plan:
        filling = Filling(situation, situation.limits.budget or BUDGET)
        decoding = [sequence for sequence in situation.running if sequence.decoding]
        reading = [sequence for sequence in situation.running if not sequence.decoding]
        filling.fill(chain(decoding, reading, situation.waiting), victims=situation.running[::-1])
        return filling.plan
