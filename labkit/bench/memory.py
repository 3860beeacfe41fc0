"""What an open stream weighs in its server: memory of the process against the number of streams that wait.

Streams of an engine that hardly ever makes a token are opened step by step, each by its interface's own
client; the weight of one is the slope of a line through the steps (least squares). Where a client shares a
connection between streams, as gRPC's does, so do these. `raw` is a connection that asks for nothing.
"""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from statistics import linear_regression

import psutil

from labkit import interfaces
from labkit.background import LoopThread
from labkit.bench import raw
from labkit.bench.rounds import Progress, silent
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
    streams: int
    weights: list[Weight]


def measure(
    names: Sequence[str] | None = None, *, streams: int = 200, steps: int = 5, progress: Progress = silent
) -> Memory:
    """Measure `raw` and the interfaces (all by default), one after the other."""
    everyone = ["raw", *(interfaces.names() if names is None else names)]
    weights: list[Weight] = []
    for index, name in enumerate(everyone):
        progress(f"memory: {name}", index / len(everyone))
        weights.append(_weigh(name, streams, steps))
    return Memory(streams, weights)


def _weigh(name: str, streams: int, steps: int) -> Weight:
    create = raw.create if name == "raw" else interfaces.server(name)
    loop = LoopThread("labkit-bench")
    try:
        with serve(create, SLOW, isolation="process") as server:
            assert isinstance(server, ProcessServer) and server.pid is not None
            counts = [round(streams * step / steps) for step in range(steps + 1)]
            resident = loop.run(_resident(name, server.url, server.pid, counts))
    finally:
        loop.close()
    return Weight(name, counts, resident, linear_regression(counts, resident).slope)


async def _resident(name: str, url: str, pid: int, counts: list[int]) -> list[int]:
    process = psutil.Process(pid)
    sizes: list[int] = []
    async with AsyncExitStack() as stack:
        opened = 0
        for count in counts:
            # What the first streams bring in once for all is no part of any stream's weight.
            wanted = count + WARM_UP
            await _open(stack, name, url, wanted - opened)
            opened = wanted
            sizes.append(process.memory_info().rss // 1024)
    return sizes


async def _open(stack: AsyncExitStack, name: str, url: str, count: int) -> None:
    """Open streams and wait until the server has begun to answer, and then has come to rest."""
    begun: list[asyncio.Event] = []
    for _ in range(count):
        begun.append(asyncio.Event())
        task = asyncio.ensure_future(_hold(name, url, begun[-1]))
        stack.push_async_callback(_end, task)
    patience = QUIET_S if name == "rest" else OPEN_S  # REST says nothing before the answer is whole
    waits = [asyncio.ensure_future(event.wait()) for event in begun]
    _, silent_ones = await asyncio.wait(waits, timeout=patience)
    for wait in silent_ones:
        wait.cancel()
    await asyncio.sleep(QUIET_S)


async def _hold(name: str, url: str, begun: asyncio.Event) -> None:
    if name == "raw":
        host, _, port = url.partition("://")[2].rpartition(":")
        _, writer = await asyncio.open_connection(host, int(port))
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            writer.close()
    async with interfaces.client(name)(url) as client, aclosing(client.chunks(REQUEST)) as chunks:
        async for _ in chunks:
            begun.set()


async def _end(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.wait([task])
