"""Site: a simulated machine with readers, on which a chapter compares schedulers one switch at a time."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from labkit.engine.policies.andes import Andes
from labkit.engine.policies.tokenflow import TokenFlow
from labkit.engine.scheduler import Limits, Policy
from labkit.figures.verdict import Ratio, ratio
from labkit.sim.cost import Cost
from labkit.sim.simulator import simulate
from labkit.sim.timelines import Summary, summarize, timelines
from labkit.sim.workload import Job, LogNormal, Shape, bursts, poisson

__all__ = ["Andes", "Site", "TokenFlow", "chat_bursts", "chat_poisson", "gain"]

SERVER = Cost(t0=0.015, decode=0.0004, prefill=0.00025, attend=0.0, read=0.0, swap=8e-6)
"""The proportions of a GPU server: a pass takes 15 ms, and a little more for each token."""
ROOM = Limits(kv_tokens=6000, seqs=64, budget=128, preemption="swap")
READERS = {8.0: 0.4, 15.0: 0.4, 20.0: 0.2}
"""Reading speeds in tokens a second, and the share of readers who read so fast."""
CHAT = Shape(LogNormal(100, 0.8, 16, 1000), LogNormal(200, 0.6, 16, 600), READERS)


@dataclass(frozen=True)
class Site:
    """A simulated machine: what it costs, and how much room it has. It gives the same figures everywhere.

    site = Site()
    site.run("fcfs", jobs, memory="optimistic")     # one switch: a field of `limits`
    """

    cost: Cost = SERVER
    limits: Limits = ROOM

    def run(self, policy: str | Policy, jobs: Sequence[Job], **switched: Any) -> Summary:
        """Return the figures of a run, with these fields of `limits` switched.

        Raises:
            TypeError: `limits` has no such field.
            InvalidRequest, ValueError: as `simulate`.
        """
        return summarize(simulate(jobs, policy, replace(self.limits, **switched), self.cost))

    def waits_s(self, policy: str | Policy, jobs: Sequence[Job]) -> list[float]:
        """Return when each token of the first request came, in seconds after its arrival; errors as `run`."""
        return list(timelines(simulate(jobs, policy, self.limits, self.cost))[0].waits_s)

    def __repr__(self) -> str:
        cost, room = self.cost, self.limits
        return (
            f"a pass: {1e3 * cost.t0:g} ms, and {1e3 * cost.decode:g} ms for each answer's token, "
            f"{1e3 * cost.prefill:g} ms for each prompt token\n"
            f"room: {room.kv_tokens:,} tokens of KV, {room.seqs} requests at once, "
            f"{room.budget} tokens in a pass; memory: {room.memory}, preemption: {room.preemption}"
        )


def chat_bursts(seed: int) -> list[Job]:
    """Forty requests at once, every 25 seconds, 120 in all; the readers are `READERS`."""
    return list(bursts(40, 25, 120, shape=CHAT, seed=seed))


def chat_poisson(rate: float, seed: int) -> list[Job]:
    """150 requests that come at random, `rate` a second on average; the readers are `READERS`."""
    return list(poisson(rate, 150, shape=CHAT, seed=seed))


def gain(runs: Sequence[Summary], over: Sequence[Summary], figure: str) -> Ratio:
    """Return how many times as large a field of `Summary` is, each run compared with the one at its place.

    Raises:
        ValueError: as `ratio`.
    """
    values, others = ([getattr(run, figure) for run in each] for each in (runs, over))
    return ratio(values, others, paired=True)
