"""The error of the lab's own figures: the delay that clients add, and the lag of a server's loop.

On one host the server and the client share a clock, so the stamps show the client's error token by token. A
first token that the client receives d ms after the server wrote it makes the measured TTFT d ms too long.
An interface whose wire does not carry the stamps is left out.
"""

import asyncio
import time
from collections.abc import Sequence
from contextlib import ExitStack, aclosing
from dataclasses import dataclass

from rich.console import Group, RenderableType

from labkit import interfaces
from labkit.background import LoopThread
from labkit.bench.rounds import BenchOptions, Progress, rotated, silent
from labkit.bench.table import met, number, table
from labkit.client import Client, Recording
from labkit.engine import create_engine
from labkit.events import GenerateRequest, Token
from labkit.figures.metrics import lags_ms, percentile
from labkit.launch.launcher import serve
from labkit.service.admission import Caller
from labkit.service.service import Service

TARGET_MS = 1.0
TURNS = 4
TICK_S = 0.001
BUSY = GenerateRequest(prompt="Once upon a time", max_tokens=400, ignore_eos=True)
"""Long answers, so that the engine is never idle."""


@dataclass(frozen=True)
class Error:
    """One interface's client, in ms.

    `ttft_…` is received - written of the first tokens: the error of the TTFT. `added_…` is received - sampled
    of all tokens: the delay of all hops together.
    """

    interface: str
    requests: int
    ttft_p50_ms: float
    ttft_p99_ms: float
    added_p50_ms: float
    added_p99_ms: float
    target_ms: float = TARGET_MS

    @property
    def met(self) -> bool:
        return self.ttft_p99_ms < self.target_ms


@dataclass(frozen=True)
class Lag:
    """How late a server's loop wakes, in ms, while its process decodes `streams` answers."""

    engine: str
    streams: int
    ticks: int
    tokens: int
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True)
class Ruler:
    tokens: int
    interval_ms: float
    errors: list[Error]
    lags: list[Lag]


def run(options: BenchOptions, progress: Progress) -> Ruler:
    requests, lag_s = (8, 0.3) if options.quick else (200, 3.0)
    names, engine = options.interfaces, options.engine
    return measure(names, requests=requests, engine=engine, lag_s=lag_s, progress=progress)


def tables(result: Ruler) -> RenderableType:
    return Group(_error_table(result), _lag_table(result))


def _error_table(result: Ruler) -> RenderableType:
    headings = ["", "TTFT error\np50", "\np99", "sampled → received\np50", "\np99", "target, p99"]
    rows = []
    for error in result.errors:
        times = (error.ttft_p50_ms, error.ttft_p99_ms, error.added_p50_ms, error.added_p99_ms)
        target = f"< {error.target_ms:g} ms {met(error.met)}"
        rows.append([error.interface, *(number(ms, 3) for ms in times), target])
    n = result.errors[0].requests if result.errors else 0
    title = f"What the clients add, in ms (n = {n} requests, a token every {result.interval_ms:g} ms)"
    return table(title, headings, rows)


def _lag_table(result: Ruler) -> RenderableType:
    rows = [
        [f"{lag.streams}", f"{lag.tokens:,}", number(lag.p50_ms, 2), number(lag.p99_ms, 2)]
        for lag in result.lags
    ]
    engine = result.lags[0].engine if result.lags else ""
    title = f"How late a loop wakes beside the {engine} engine in the same process, in ms"
    return table(title, ["streams", "tokens", "p50", "p99"], rows)


def measure(
    names: Sequence[str] | None = None,
    *,
    requests: int = 200,
    tokens: int = 4,
    interval_ms: float = 5.0,
    engine: str = "tiny",
    lag_s: float = 3.0,
    progress: Progress = silent,
) -> Ruler:
    """Measure the clients of the interfaces (all by default), then the loop beside `engine`.

    Args:
        requests: to each interface.
        tokens: in each answer.
        interval_ms: time between two tokens of the scripted engine that the clients read.
        lag_s: seconds for each number of streams beside `engine`.
    """
    everyone = interfaces.names() if names is None else names
    stamped = [name for name in everyone if "stamps" not in interfaces.client(name).lacks]
    errors = _errors(stamped, requests, tokens, interval_ms, progress)
    lags: list[Lag] = []
    for index, streams in enumerate((0, 1, 8)):
        progress(f"ruler: the loop beside {streams} streams", 0.8 + index / 15)
        lags.append(loop_lag(engine, streams, lag_s))
    return Ruler(tokens, interval_ms, errors, lags)


def _errors(
    names: list[str], requests: int, tokens: int, interval_ms: float, progress: Progress
) -> list[Error]:
    ask = GenerateRequest(prompt="measure", max_tokens=tokens, stamps=True)
    engine = f"scripted:tokens={tokens},interval_ms={interval_ms:g}"
    recordings: dict[str, list[Recording]] = {name: [] for name in names}
    with ExitStack() as stack:
        servers = {name: stack.enter_context(serve(name, engine, isolation="process")) for name in names}
        loop = LoopThread("labkit-bench")
        stack.callback(loop.close)
        for turn in range(TURNS):
            share = requests * (turn + 1) // TURNS - requests * turn // TURNS
            for index, name in enumerate(rotated(names, turn)):
                progress(f"ruler: {name}", (turn + index / len(names)) / TURNS * 0.8)
                recordings[name] += loop.run(_record(interfaces.client(name), servers[name].url, ask, share))
    return [_error(name, recordings[name]) for name in names]


async def _record(kind: type[Client], url: str, ask: GenerateRequest, count: int) -> list[Recording]:
    async with kind(url) as client:
        await client.record(ask)  # the first one connects
        return [await client.record(ask) for _ in range(count)]


def _error(name: str, recordings: list[Recording]) -> Error:
    lags = [lags_ms(recording) for recording in recordings]
    first = [lag["written→received"][0] for lag in lags]
    added = [sum(hops) for lag in lags for hops in zip(*lag.values(), strict=True)]
    return Error(name, len(recordings), _p(first, 50), _p(first, 99), _p(added, 50), _p(added, 99))


def loop_lag(engine: str, streams: int, seconds: float) -> Lag:
    """Measure how late a loop wakes that also reads `streams` answers of `engine`.

    A task on the loop sleeps 1 ms again and again; what a sleep takes beyond that is the lag.
    """
    model = create_engine(engine)
    loop = LoopThread("labkit-bench")
    try:
        late, tokens = loop.run(_beside(Service(model), streams, seconds))
    finally:
        loop.close()
        model.close()
    return Lag(engine, streams, len(late), tokens, _p(late, 50), _p(late, 99))


async def _beside(service: Service, streams: int, seconds: float) -> tuple[list[float], int]:
    end = time.monotonic() + seconds
    readers = [asyncio.ensure_future(_read(service, end)) for _ in range(streams)]
    late: list[float] = []
    while (start := time.monotonic()) < end:
        await asyncio.sleep(TICK_S)
        late.append((time.monotonic() - start - TICK_S) * 1e3)
    return late, sum(await asyncio.gather(*readers))


async def _read(service: Service, end: float) -> int:
    tokens = 0
    while time.monotonic() < end:
        async with aclosing(service.generate(BUSY, Caller())) as delivery:
            async for group in delivery:
                tokens += sum(isinstance(event, Token) for event in group.events)
                if time.monotonic() >= end:
                    break
    return tokens


def _p(values: list[float], p: float) -> float:
    value = percentile(values, p)
    assert value is not None
    return value
