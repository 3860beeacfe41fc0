"""The server's CPU time per streamed token, through each interface and through raw sockets.

The scripted engine runs at full speed, and every token is a write of its own. Each interface has a server in
a process of its own, and its client's `drain` reads. Every round measures all interfaces, in an order that
turns, and divides each figure by the raw figure of the same round, because a disturbance slows both.
"""

import asyncio
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from math import ceil
from statistics import median

from rich.console import RenderableType

from labkit.background import LoopThread
from labkit.bench import machine, raw
from labkit.bench.rounds import BenchOptions, Progress, rotated, silent
from labkit.bench.table import met, table
from labkit.events import GenerateRequest
from labkit.launch.launcher import serve
from labkit.launch.process import ProcessServer

TARGET_STREAMS = 64
"""The number of streams at which a client's `cpu_target` is judged."""
PATIENCE_S = 120.0


@dataclass(frozen=True)
class TokenCpu:
    """One interface at one number of streams: the server's CPU time per token, in µs and over raw's."""

    interface: str
    streams: int
    answers: int
    rounds_us: list[float]
    us_per_token: float
    ratio: float
    target: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether the ratio is within the target; None where there is no target."""
        return None if self.target is None else self.ratio <= self.target


@dataclass(frozen=True)
class Transport:
    """`costs` has an entry for each number of streams and each interface, `raw` first."""

    tokens: int
    rounds: int
    costs: list[TokenCpu]


def run(options: BenchOptions, progress: Progress) -> Transport:
    if options.quick:
        return measure(options.interfaces, streams=(1, 4), rounds=2, cpu_s=0.02, progress=progress)
    return measure(options.interfaces, progress=progress)


def tables(result: Transport) -> RenderableType:
    streams = list(dict.fromkeys(cost.streams for cost in result.costs))
    rows: dict[str, list[TokenCpu]] = {}
    for cost in result.costs:
        rows.setdefault(cost.interface, []).append(cost)
    headings = ["", *(f"{n} stream{'s' * (n > 1)}\nµs · × raw" for n in streams), "target"]
    title = (
        f"CPU of the server per token ({result.tokens} a stream, a write each; medians of {result.rounds})"
    )
    return table(
        title, headings, ([name, *map(_cell, costs), _target(costs)] for name, costs in rows.items())
    )


def _cell(cost: TokenCpu) -> str:
    return f"{cost.us_per_token:.1f} · {cost.ratio:.2f}×"


def _target(costs: Sequence[TokenCpu]) -> str:
    return " ".join(f"≤ {cost.target:g}× {met(bool(cost.met))}" for cost in costs if cost.target is not None)


def measure(
    names: Sequence[str] | None = None,
    *,
    streams: Sequence[int] = (1, 16, 64),
    tokens: int = 256,
    rounds: int = 7,
    cpu_s: float = 0.15,
    progress: Progress = silent,
) -> Transport:
    """Measure, for about 15 s for each number of streams.

    Args:
        names: the interfaces; all by default. `raw` is always measured too.
        cpu_s: CPU time behind each figure of each round; at least 0.5 s where the machine's clock is coarse.
    """
    cpu_s = cpu_s if machine.clock_is_fine() else max(cpu_s, 0.5)
    with ExitStack() as stack:
        bench = _Bench(stack, raw.with_raw(names), tokens)
        costs: list[TokenCpu] = []
        for index, count in enumerate(streams):
            answers = {name: bench.answers(name, count, cpu_s) for name in bench.names}
            rounds_us: dict[str, list[float]] = {name: [] for name in bench.names}
            for turn in range(rounds):
                progress(f"transport: {count} streams", (index + turn / rounds) / len(streams))
                for name in rotated(bench.names, turn):
                    rounds_us[name].append(bench.us_per_token(name, count, answers[name]))
            costs += [_cost(name, count, answers[name], rounds_us) for name in bench.names]
    return Transport(tokens, rounds, costs)


def _cost(name: str, streams: int, answers: int, rounds_us: dict[str, list[float]]) -> TokenCpu:
    own, yardstick = rounds_us[name], rounds_us[raw.RAW]
    ratio = median(here / there for here, there in zip(own, yardstick, strict=True))
    target = raw.client(name).cpu_target if streams == TARGET_STREAMS else None
    return TokenCpu(name, streams, answers, own, median(own), ratio, target)


class _Bench:
    """The servers, each in a process of its own, and a loop for the clients."""

    def __init__(self, stack: ExitStack, names: list[str], tokens: int) -> None:
        self.names = names
        self._tokens = tokens
        self._request = GenerateRequest(prompt="measure", max_tokens=tokens)
        self._loop = LoopThread("labkit-bench")
        stack.callback(self._loop.close)
        self._servers: dict[str, ProcessServer] = {}
        for name in names:
            engine = f"scripted:tokens={tokens},interval_ms=0"
            server = serve(raw.server(name), engine, isolation="process")
            assert isinstance(server, ProcessServer)
            self._servers[name] = stack.enter_context(server)

    def answers(self, name: str, streams: int, cpu_s: float) -> int:
        """Warm up; return how many answers a stream must take for a figure to rest on `cpu_s`."""
        self.us_per_token(name, streams, 1)
        once = self.us_per_token(name, streams, 1) * streams * self._tokens / 1e6
        return max(1, ceil(cpu_s / max(once, 1e-3)))  # a busy kernel may report no time yet

    def us_per_token(self, name: str, streams: int, answers: int) -> float:
        pid = self._servers[name].pid
        assert pid is not None
        before = machine.cpu_s(pid)
        self._loop.run(self._drain(name, streams, answers), PATIENCE_S)
        return (machine.cpu_s(pid) - before) * 1e6 / (streams * answers * self._tokens)

    async def _drain(self, name: str, streams: int, answers: int) -> None:
        kind, url = raw.client(name), self._servers[name].url
        await asyncio.gather(*(kind.drain(url, self._request, answers) for _ in range(streams)))
