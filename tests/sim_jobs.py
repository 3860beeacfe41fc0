"""Costs, limits and jobs for tests of the simulator."""

from labkit.engine.scheduler import Limits
from labkit.engine.trace import Iteration, Record
from labkit.sim.cost import Cost
from labkit.sim.workload import Job, Shape, Uniform, bursts

COST = Cost(t0=1e-3, decode=6e-5, prefill=2.5e-5, attend=2e-8, read=4e-7, swap=1e-6)
FLAT = Cost(t0=1.0, decode=0.0, prefill=0.0, attend=0.0, read=0.0, swap=0.0)
ROOMY = Limits(kv_tokens=64 * 1024, seqs=64)
# twelve requests that take up to twice the 1,024 tokens that its tests allow
CROWD = bursts(12, 1.0, 12, shape=Shape(prompt=Uniform(40, 200), output=Uniform(20, 60)))


def job(arrival_s: float, prompt_tokens: int, output_tokens: int) -> Job:
    return Job(arrival_s, tuple(range(1, prompt_tokens + 1)), output_tokens, 10.0)


def iterations(records: list[Record]) -> list[Iteration]:
    return [record for record in records if isinstance(record, Iteration)]
