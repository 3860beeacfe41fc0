"""The engine's scheduler on a virtual clock: the same core, with a runner that only moves the clock.

The engine's own code decides who computes when, who is evicted and what the prefix cache holds. Streams are
not simulated: every reader takes its tokens at once.
"""

from collections import deque
from collections.abc import Sequence as Many
from copy import deepcopy
from math import inf

from labkit.engine.core import Core
from labkit.engine.policies import create_policy
from labkit.engine.scheduler import Limits, Policy, blocks
from labkit.engine.sequence import Sequence
from labkit.engine.trace import Record
from labkit.engine.work import Work, counts
from labkit.sim.cost import Cost, Load
from labkit.sim.workload import Job


class SimulatedRunner:
    """Moves a clock by the time that computing would take. Its tokens are negative numbers."""

    def __init__(self, cost: Cost) -> None:
        self.cost = cost
        self.now_s = 0.0
        self._swapped = 0

    def clock(self) -> float:
        return self.now_s

    def run(self, work: Many[Work]) -> list[int | None]:
        kv_tokens = sum(blocks(sequence.computed + tokens) for sequence, tokens in work)
        self.now_s += self.cost.seconds(Load(*counts(work), kv_tokens, self._swapped))
        self._swapped = 0
        # each sequence has a token of its own, so that no answer matches another in the prefix cache; they
        # begin at -2, because -1 and -2 have the same hash
        return [-2 - sequence.number if tokens == sequence.pending else None for sequence, tokens in work]

    def check(self, slot: int) -> None:
        pass

    def swap_out(self, sequence: Sequence) -> None:
        self._swapped += sequence.computed

    def swap_in(self, sequence: Sequence) -> None:
        self._swapped += sequence.computed

    def forget(self, sequence: Sequence) -> None:
        pass

    def keep_blocks(self, sequence: Sequence, copies: Many[tuple[int, int]]) -> None:
        pass

    def use_blocks(self, sequence: Sequence, places: Many[int]) -> None:
        pass


def simulate(
    jobs: Many[Job], policy: str | Policy, limits: Limits, cost: Cost, *, prefix_tokens: int = 0
) -> list[Record]:
    """Run jobs to their end and return the records of the scheduler, from 0 s on.

    Args:
        policy: a name in `labkit.engine.policies`, or a policy of your own; a copy of it runs.
        cost: what iterations cost on the simulated machine.
        prefix_tokens: the size of the prefix cache; 0 for none.

    Raises:
        InvalidRequest: there is no such policy.
        ValueError: a job does not fit into `limits.kv_tokens`, or the policy leaves jobs waiting for ever, or
            makes a plan that exceeds the limits.
    """
    _check(jobs, limits)
    runner = SimulatedRunner(cost)
    chosen = create_policy(policy) if isinstance(policy, str) else deepcopy(policy)
    core = Core(runner, chosen, limits, runner.clock, prefix_tokens)
    records: list[Record] = []
    core.watch(records.append)
    coming = deque(sorted(enumerate(jobs), key=lambda place: place[1].arrival_s))
    while coming or core.running or core.waiting:
        while coming and coming[0][1].arrival_s <= runner.now_s:
            core.add(_sequence(*coming.popleft()))
        plan = core.iterate()
        if not plan.run and not plan.evict:
            rest_s = inf if plan.rest_s is None else plan.rest_s
            next_s = coming[0][1].arrival_s if coming else inf
            runner.now_s = min(runner.now_s + rest_s, next_s)
            if runner.now_s == inf:
                left = len(core.running) + len(core.waiting)
                raise ValueError(
                    f"policy {chosen.name!r} leaves {left} jobs waiting and nothing else will happen"
                )
    return records


def _check(jobs: Many[Job], limits: Limits) -> None:
    for index, job in enumerate(jobs):
        needed = blocks(len(job.prompt) + job.output_tokens - 1)
        if needed > limits.kv_tokens:
            raise ValueError(
                f"job {index} takes {needed} KV tokens and kv_tokens is {limits.kv_tokens}: raise it"
            )


def _sequence(index: int, job: Job) -> Sequence:
    return Sequence(str(index), list(job.prompt), job.output_tokens, job.arrival_s, job.reader_tps)
