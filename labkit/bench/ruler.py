"""How true the lab's own ruler is: what the clients add to what they measure, and how late a loop runs.

On one host a server's stamps and a client's share a clock, so the client's error is known token by token:
a first token that is received d ms after the server wrote it makes the measured TTFT d ms too long.
"""

import asyncio
import time
from collections.abc import Sequence
from contextlib import ExitStack, aclosing
from dataclasses import dataclass

from labkit import interfaces
from labkit.background import LoopThread
from labkit.bench.rounds import Progress, rotated, silent
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
# Stories end before the context does, and the next begins at once.
BUSY = GenerateRequest(prompt="Once upon a time", max_tokens=400, ignore_eos=True)


@dataclass(frozen=True)
class Error:
    """One interface's client, in ms: received - written of the first tokens; received - sampled of all."""

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
    """How much later than asked a server's loop wakes, in ms, while `streams` are decoded in its process."""

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
    """Measure the clients of the interfaces (all by default), then the loop beside `engine`."""
    everyone = interfaces.names() if names is None else list(names)
    errors = _errors(everyone, requests, tokens, interval_ms, progress)
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
    taken: dict[str, list[Recording]] = {name: [] for name in names}
    with ExitStack() as stack:
        servers = {name: stack.enter_context(serve(name, engine, isolation="process")) for name in names}
        loop = LoopThread("labkit-bench")
        stack.callback(loop.close)
        for turn in range(TURNS):
            share = requests * (turn + 1) // TURNS - requests * turn // TURNS
            for index, name in enumerate(rotated(names, turn)):
                progress(f"ruler: {name}", (turn + index / len(names)) / TURNS * 0.8)
                taken[name] += loop.run(_record(interfaces.client(name), servers[name].url, ask, share))
    return [_error(name, taken[name]) for name in names]


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
    """Sleep 1 ms again and again on the loop that takes the tokens, and see how much longer it takes."""
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
    while (asked := time.monotonic()) < end:
        await asyncio.sleep(TICK_S)
        late.append((time.monotonic() - asked - TICK_S) * 1e3)
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
