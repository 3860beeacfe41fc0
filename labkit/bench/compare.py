"""Sends the same prompt and seed through every interface, repeatedly, in an order that turns.

    from labkit.bench.compare import compare

    comparison = compare("Once upon a time", engine="tiny", repeat=5)
    comparison.rows["sse"].ttft_ms, comparison.same_text

Each interface first has a warm-up, which connects and is not timed. A last pass, also not timed, goes through
a `labkit.net.relay.CountingRelay` on a new connection and counts the bytes.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Literal

from labkit import interfaces
from labkit.background import LoopThread
from labkit.bench import machine
from labkit.bench.comparison import FIGURES, Comparison, Run
from labkit.bench.rounds import Progress, rotated, silent
from labkit.client import Client, Recording
from labkit.engine import Engine, create_engine
from labkit.errors import InvalidRequest, from_code
from labkit.events import Failed, GenerateRequest
from labkit.figures.metrics import figures
from labkit.launch.launcher import serve
from labkit.launch.server import Server
from labkit.net.relay import CountingRelay

Isolation = Literal["thread", "process"]

SEED = 1  # not 0, a request's default, which the engine `openai` leaves to its endpoint


def compare(
    prompt: str = "Once upon a time",
    *,
    engine: str = "tiny",
    tokens: int = 128,
    repeat: int = 5,
    names: Sequence[str] | None = None,
    isolation: Isolation = "process",
    seed: int = SEED,
    temperature: float = 0.8,
    flush: str = "token",
    comparison: Comparison | None = None,
    progress: Progress = silent,
) -> Comparison:
    """Compare the interfaces of these names, all by default.

    Args:
        isolation: `"process"` starts each server in a process of its own, for reliable figures; `"thread"`
            starts them in this process, around one engine.
        comparison: a `blank` one to fill, so that another thread can show it meanwhile.

    Raises:
        StartError: no such interface or engine.
        InvalidRequest: the request or `repeat` is out of range.
        LabkitError: an answer failed. There is nothing to compare then.
    """
    request = GenerateRequest.parse(
        {"prompt": prompt, "max_tokens": tokens, "seed": seed, "temperature": temperature}
    )
    if repeat < 1:
        raise InvalidRequest("repeat: at least 1")
    chosen = list(dict.fromkeys(names)) if names else interfaces.names()
    result = comparison or blank()
    result.parameters.update(
        request.model_dump(exclude={"request_id", "stamps", "stop"}),
        engine=engine,
        repeat=repeat,
        interfaces=chosen,
        isolation=isolation,
        flush=flush,
    )
    with ExitStack() as stack:
        progress("starting the servers", 0.0)
        servers = start_all(stack, chosen, engine, isolation, flush)
        loop = LoopThread("labkit-compare")
        stack.callback(loop.close)
        loop.run(_Passes(servers, request, result, progress).run(repeat))
    return result


def blank() -> Comparison:
    """A comparison without runs, with the machine as it is now."""
    return Comparison(machine.describe(), {"interfaces": []})


def start_all(
    stack: ExitStack, names: Sequence[str], engine: str, isolation: Isolation, flush: str = "token"
) -> dict[str, Server]:
    """Start a server of each interface, all at once; `stack` stops them."""
    shared: Engine | str = engine
    if isolation == "thread":
        model = create_engine(engine)
        stack.callback(model.close)
        shared = model
    with ThreadPoolExecutor(max(1, len(names))) as pool:
        starting = [pool.submit(serve, name, shared, flush=flush, isolation=isolation) for name in names]
    servers: dict[str, Server] = {}
    for name, start in zip(names, starting, strict=True):
        if start.exception() is None:
            servers[name] = stack.enter_context(start.result())
    for start in starting:
        start.result()
    return servers


class _Passes:
    """The passes of one comparison, on one loop, with a client for each interface."""

    def __init__(
        self, servers: dict[str, Server], request: GenerateRequest, result: Comparison, progress: Progress
    ) -> None:
        self._servers = servers
        self._request = request
        self._result = result
        self._progress = progress
        self._clients: dict[str, Client] = {}
        self._done = 0

    async def run(self, repeat: int) -> None:
        names = list(self._servers)
        whole = len(names) * (repeat + 2)
        try:
            for name in names:
                self._clients[name] = interfaces.client(name)(self._servers[name].url)
                self._report(f"{name}, warm-up", whole)
                await _record(self._clients[name], self._request)
            for turn in range(repeat):
                order = rotated(names, turn)
                self._result.order.append(order)
                for place, name in enumerate(order):
                    self._report(f"{name}, {turn + 1} of {repeat}", whole)
                    recording = await _record(self._clients[name], self._request)
                    self._result.runs.append(_run(recording, name, turn, place))
            for name in names:
                self._report(f"{name}, counting bytes", whole)
                self._result.bytes[name] = await self._weigh(name)
            self._progress("done", 1.0)
        finally:
            for client in self._clients.values():
                await client.aclose()

    def _report(self, step: str, whole: int) -> None:
        self._progress(step, self._done / whole)
        self._done += 1

    async def _weigh(self, name: str) -> tuple[int, int]:
        async with CountingRelay(self._servers[name].url) as relay:
            async with interfaces.client(name)(relay.url) as client:
                await _record(client, self._request)
            return relay.up, relay.down


async def _record(client: Client, request: GenerateRequest) -> Recording:
    recording = await client.record(request)
    if isinstance(end := recording.end, Failed):
        raise from_code(end.code, f"{client.name}: {end.message}")
    return recording


def _run(recording: Recording, name: str, repeat: int, place: int) -> Run:
    derived = figures(recording)
    compared = {figure: getattr(derived, figure) for figure in FIGURES}
    return Run(interface=name, repeat=repeat, place=place, text=recording.text, **compared)
