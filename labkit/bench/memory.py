"""The memory of an open stream in its server.

The benchmark opens streams of an engine that hardly ever makes a token, step by step, each through its
interface's own client. The weight of a stream is the slope of a line through the server's resident memory at
each step (least squares). Streams share a connection where a client does so, as gRPC's does. `raw` is a
connection that asks for nothing.
"""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from statistics import linear_regression

import psutil
from rich.console import RenderableType

from labkit.background import LoopThread
from labkit.bench import raw
from labkit.bench.rounds import BenchOptions, Progress, silent
from labkit.bench.table import number, table
from labkit.client import Client
from labkit.events import GenerateRequest
from labkit.launch.launcher import serve
from labkit.launch.process import ProcessServer

SLOW = "scripted:tokens=2,interval_ms=3600000"
WARM_UP = 10
OPEN_S = 10.0
QUIET_S = 0.3
REQUEST = GenerateRequest(prompt="wait")


@dataclass(frozen=True)
class Weight:
    """One interface: resident KiB at each number of open streams, and the slope."""

    interface: str
    streams: list[int]
    resident_kib: list[int]
    kib_per_stream: float


@dataclass(frozen=True)
class Memory:
    """The weights of `raw` and the interfaces. `streams` were open at the last step."""

    streams: int
    weights: list[Weight]


def run(options: BenchOptions, progress: Progress) -> Memory:
    return measure(options.interfaces, streams=20 if options.quick else 200, progress=progress)


def tables(result: Memory) -> RenderableType:
    headings = ["", "KiB a\nstream", "MiB before", f"MiB with\n{result.streams} more"]
    rows = [
        [
            weight.interface,
            number(weight.kib_per_stream),
            number(weight.resident_kib[0] / 1024),
            number(weight.resident_kib[-1] / 1024),
        ]
        for weight in result.weights
    ]
    return table("Memory of the server's process per open stream", headings, rows)


def measure(
    names: Sequence[str] | None = None, *, streams: int = 200, steps: int = 5, progress: Progress = silent
) -> Memory:
    """Measure `raw` and the interfaces (all by default), one after another."""
    everyone = raw.with_raw(names)
    weights: list[Weight] = []
    for index, name in enumerate(everyone):
        progress(f"memory: {name}", index / len(everyone))
        weights.append(_weigh(name, streams, steps))
    return Memory(streams, weights)


def _weigh(name: str, streams: int, steps: int) -> Weight:
    loop = LoopThread("labkit-bench")
    try:
        with serve(raw.server(name), SLOW, isolation="process") as server:
            assert isinstance(server, ProcessServer) and server.pid is not None
            counts = [round(streams * step / steps) for step in range(steps + 1)]
            resident = loop.run(_resident(raw.client(name), server.url, server.pid, counts))
    finally:
        loop.close()
    return Weight(name, counts, resident, linear_regression(counts, resident).slope)


async def _resident(kind: type[Client], url: str, pid: int, counts: list[int]) -> list[int]:
    process = psutil.Process(pid)
    sizes: list[int] = []
    async with AsyncExitStack() as stack:
        opened = 0
        for count in counts:
            # The first streams make the server load what all streams share, so they do not count.
            total = count + WARM_UP
            await _open(stack, kind, url, total - opened)
            opened = total
            sizes.append(process.memory_info().rss // 1024)
    return sizes


async def _open(stack: AsyncExitStack, kind: type[Client], url: str, count: int) -> None:
    """Open streams, then wait until the server has begun to answer and rests again."""
    begun: list[asyncio.Event] = []
    for _ in range(count):
        begun.append(asyncio.Event())
        task = asyncio.ensure_future(_hold(kind, url, begun[-1]))
        stack.push_async_callback(_end, task)
    # A client that does not stream receives nothing here, so there is nothing to wait for.
    patience = OPEN_S if kind.streams else QUIET_S
    waits = [asyncio.ensure_future(event.wait()) for event in begun]
    _, unfinished = await asyncio.wait(waits, timeout=patience)
    for wait in unfinished:
        wait.cancel()
    await asyncio.sleep(QUIET_S)


async def _hold(kind: type[Client], url: str, begun: asyncio.Event) -> None:
    async with kind(url) as client, aclosing(client.chunks(REQUEST)) as chunks:
        async for _ in chunks:
            begun.set()


async def _end(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.wait([task])
