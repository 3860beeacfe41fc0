"""The benchmarks by name, run one after the other into one result that becomes JSON."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from labkit.bench import machine, memory, peers, ruler, simulator, transport
from labkit.bench.machine import Machine
from labkit.bench.memory import Memory
from labkit.bench.peers import Peers
from labkit.bench.rounds import Progress, silent
from labkit.bench.ruler import Ruler
from labkit.bench.simulator import Simulator
from labkit.bench.transport import Transport

Name = Literal["transport", "memory", "ruler", "engine", "simulator"]
NAMES: tuple[Name, ...] = ("transport", "memory", "ruler", "engine", "simulator")


@dataclass(frozen=True)
class Results:
    """The load average in `machine` is from before the first benchmark; None is one that was not run."""

    machine: Machine
    parameters: dict[str, Any]
    transport: Transport | None = None
    memory: Memory | None = None
    ruler: Ruler | None = None
    engine: Peers | None = None
    simulator: Simulator | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def run(
    which: Sequence[Name] = NAMES,
    *,
    interfaces: Sequence[str] | None = None,
    engine: str = "tiny",
    quick: bool = False,
    progress: Progress = silent,
) -> Results:
    """Run benchmarks; all take six to seven minutes, `quick` ones some seconds for figures that are rough."""
    parameters = {"interfaces": interfaces, "engine": engine, "quick": quick}
    before = machine.describe()
    done: dict[str, Any] = {}
    for index, name in enumerate(which):

        def share(what: str, part: float, index: int = index) -> None:
            progress(what, (index + part) / len(which))

        done[name] = _one(name, interfaces, engine, quick, share)
    progress("done", 1.0)
    return Results(before, parameters, **done)


def _one(name: Name, interfaces: Sequence[str] | None, engine: str, quick: bool, share: Progress) -> object:
    if name == "transport":
        if quick:
            return transport.measure(interfaces, streams=(1, 4), rounds=2, cpu_s=0.02, progress=share)
        return transport.measure(interfaces, progress=share)
    if name == "memory":
        return memory.measure(interfaces, streams=20 if quick else 200, steps=5, progress=share)
    if name == "engine":
        return peers.measure(tokens=32, rounds=1, progress=share) if quick else peers.measure(progress=share)
    if name == "simulator":
        return simulator.measure(seconds=1.0 if quick else 6.0, progress=share)
    if quick:
        return ruler.measure(interfaces, requests=8, engine=engine, lag_s=0.3, progress=share)
    return ruler.measure(interfaces, engine=engine, progress=share)
