"""What a streamed token costs its server in CPU time, through each interface, against raw sockets.

The scripted engine runs at full speed and every token is a write of its own. One server process an
interface, drained by the clients in `labkit.bench.drains`. All interfaces are measured in every round, in an
order that turns, and each is divided by the raw figure of its own round: what disturbs the machine
disturbs both.
"""

import asyncio
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from math import ceil
from statistics import median
from types import MappingProxyType

from labkit import interfaces
from labkit.background import LoopThread
from labkit.bench import machine, raw
from labkit.bench.drains import drain
from labkit.bench.rounds import Progress, rotated, silent
from labkit.launch.launcher import serve
from labkit.launch.process import ProcessServer

TARGETS = MappingProxyType({"sse": 3.0, "websocket": 3.5, "grpc": 8.0})
TARGET_STREAMS = 64
PATIENCE_S = 120.0


@dataclass(frozen=True)
class Cost:
    """One interface at one number of streams: µs of server CPU per token, and as a multiple of raw."""

    interface: str
    streams: int
    answers: int
    rounds_us: list[float]
    us_per_token: float
    ratio: float
    target: float | None = None

    @property
    def met(self) -> bool | None:
        """None where no target is set."""
        return None if self.target is None else self.ratio <= self.target


@dataclass(frozen=True)
class Transport:
    """`costs` has a row for each interface and number of streams, `raw` first."""

    tokens: int
    rounds: int
    costs: list[Cost]


def measure(
    names: Sequence[str] | None = None,
    *,
    streams: Sequence[int] = (1, 16, 64),
    tokens: int = 256,
    rounds: int = 7,
    cpu_s: float = 0.15,
    progress: Progress = silent,
) -> Transport:
    """Measure; about 15 s for each number of streams.

    Args:
        names: the interfaces; all by default. `raw` is always among them.
        cpu_s: CPU time that each figure of each round rests on; longer where only a coarse clock is there.
    """
    cpu_s = cpu_s if machine.clock_is_fine() else max(cpu_s, 0.5)
    with ExitStack() as stack:
        bench = _Bench(stack, ["raw", *(interfaces.names() if names is None else names)], tokens)
        costs: list[Cost] = []
        for index, count in enumerate(streams):
            answers = {name: bench.answers(name, count, cpu_s) for name in bench.names}
            taken: dict[str, list[float]] = {name: [] for name in bench.names}
            for turn in range(rounds):
                progress(f"transport: {count} streams", (index + turn / rounds) / len(streams))
                for name in rotated(bench.names, turn):
                    taken[name].append(bench.us_per_token(name, count, answers[name]))
            costs += [_cost(name, count, answers[name], taken) for name in bench.names]
    return Transport(tokens, rounds, costs)


def _cost(name: str, streams: int, answers: int, taken: dict[str, list[float]]) -> Cost:
    ratios = [here / there for here, there in zip(taken[name], taken["raw"], strict=True)]
    target = TARGETS.get(name) if streams == TARGET_STREAMS else None
    return Cost(name, streams, answers, taken[name], median(taken[name]), median(ratios), target)


class _Bench:
    """The servers, each in a process of its own, and a loop for the clients."""

    def __init__(self, stack: ExitStack, names: list[str], tokens: int) -> None:
        self.names = names
        self._tokens = tokens
        self._loop = LoopThread("labkit-bench")
        stack.callback(self._loop.close)
        self._servers: dict[str, ProcessServer] = {}
        for name in names:
            interface = raw.create if name == "raw" else interfaces.server(name)
            server = serve(interface, f"scripted:tokens={tokens},interval_ms=0", isolation="process")
            assert isinstance(server, ProcessServer)
            self._servers[name] = stack.enter_context(server)

    def answers(self, name: str, streams: int, cpu_s: float) -> int:
        """Warm up, and find how many answers a stream must take so that a figure rests on `cpu_s`."""
        self.us_per_token(name, streams, 1)
        once = self.us_per_token(name, streams, 1) * streams * self._tokens / 1e6
        return max(1, ceil(cpu_s / max(once, 1e-3)))  # a busy kernel may not have counted it yet

    def us_per_token(self, name: str, streams: int, answers: int) -> float:
        pid = self._servers[name].pid
        assert pid is not None
        before = machine.cpu_s(pid)
        self._loop.run(self._drain(name, streams, answers), PATIENCE_S)
        return (machine.cpu_s(pid) - before) * 1e6 / (streams * answers * self._tokens)

    async def _drain(self, name: str, streams: int, answers: int) -> None:
        read, url = drain(name), self._servers[name].url
        await asyncio.gather(*(read(url, self._tokens, answers) for _ in range(streams)))
