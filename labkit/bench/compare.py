"""The same prompt and seed through every interface, repeated in a turning order: figures, texts, bytes.

    comparison = labkit.bench.compare.compare("Once upon a time", engine="tiny", repeat=5)
    comparison.rows["sse"].ttft_ms, comparison.same_text

One warm-up for each interface is not counted; it also connects. Bytes are counted in one further pass
through `labkit.net.relay.CountingRelay`, on a connection of its own, which is not timed.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, fields
from statistics import median
from typing import Any, Literal

from labkit import interfaces
from labkit.background import LoopThread
from labkit.bench import machine
from labkit.bench.machine import Machine
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


@dataclass(frozen=True, kw_only=True)
class _Figures:
    """The figures of `labkit.figures.metrics.Figures` that are compared; None where one is undefined."""

    tokens: float | None
    chunks: float | None
    ttft_ms: float | None
    itl_p50_ms: float | None
    itl_p99_ms: float | None
    icl_p50_ms: float | None
    tpot_ms: float | None
    e2e_ms: float | None


@dataclass(frozen=True, kw_only=True)
class Run(_Figures):
    """One timed request; `place` is its turn within the repeat."""

    interface: str
    repeat: int
    place: int
    text: str


@dataclass(frozen=True, kw_only=True)
class Row(_Figures):
    """Medians over the `n` repeats of one interface; bytes as counted on the wire, both ways."""

    interface: str
    n: int
    bytes_up: int | None
    bytes_down: int | None


FIGURES = [f.name for f in fields(_Figures)]


@dataclass
class Comparison:
    """Filled while it runs, so that a live table can show what there is."""

    machine: Machine
    parameters: dict[str, Any]
    order: list[list[str]] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    bytes: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def rows(self) -> dict[str, Row]:
        return {name: self._row(name) for name in self.parameters["interfaces"]}

    @property
    def texts(self) -> dict[str, list[str]]:
        """The different texts that each interface brought: one, if all is well."""
        return {
            name: sorted({run.text for run in self.runs if run.interface == name})
            for name in self.parameters["interfaces"]
        }

    @property
    def same_text(self) -> bool:
        return len({run.text for run in self.runs}) <= 1

    def to_json(self) -> dict[str, Any]:
        return {
            "machine": asdict(self.machine),
            "parameters": self.parameters,
            "same_text": self.same_text,
            "texts": self.texts,
            "medians": {name: asdict(row) for name, row in self.rows.items()},
            "order": self.order,
            "runs": [asdict(run) for run in self.runs],
        }

    def _row(self, name: str) -> Row:
        runs = [run for run in self.runs if run.interface == name]
        up, down = self.bytes.get(name, (None, None))
        middle = {figure: _median([getattr(run, figure) for run in runs]) for figure in FIGURES}
        return Row(interface=name, n=len(runs), bytes_up=up, bytes_down=down, **middle)


def compare(
    prompt: str = "Once upon a time",
    *,
    engine: str = "tiny",
    tokens: int = 128,
    repeat: int = 5,
    names: Sequence[str] | None = None,
    isolation: Isolation = "process",
    seed: int = 0,
    temperature: float = 0.8,
    flush: str = "token",
    comparison: Comparison | None = None,
    progress: Progress = silent,
) -> Comparison:
    """Compare the interfaces of these names; all by default.

    Args:
        isolation: `"process"` gives each server a process of its own, for figures that are kept;
            `"thread"` one engine in this process to all of them.
        comparison: one made by `blank`, to be filled here and watched elsewhere.

    Raises:
        StartError: no such interface or engine.
        InvalidRequest: the request or `repeat` is out of range.
        LabkitError: an answer failed; a comparison of failures would mean nothing.
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
        loop.run(_Course(servers, request, result, progress).run(repeat))
    return result


def blank() -> Comparison:
    return Comparison(machine.describe(), {"interfaces": []})


def start_all(
    stack: ExitStack, names: Sequence[str], engine: str, isolation: Isolation, flush: str = "token"
) -> dict[str, Server]:
    """Start a server of each interface side by side; `stack` stops them."""
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


class _Course:
    """The passes of one comparison, on one loop, a client for each interface."""

    def __init__(
        self, servers: dict[str, Server], request: GenerateRequest, result: Comparison, progress: Progress
    ) -> None:
        self._servers = servers
        self._request = request
        self._result = result
        self._progress = progress
        self._clients: dict[str, Client] = {}
        self._passes = 0

    async def run(self, repeat: int) -> None:
        names = list(self._servers)
        whole = len(names) * (repeat + 2)
        try:
            for name in names:
                self._clients[name] = interfaces.client(name)(self._servers[name].url)
                self._tell(f"{name}, warm-up", whole)
                await _record(self._clients[name], self._request)
            for turn in range(repeat):
                order = rotated(names, turn)
                self._result.order.append(order)
                for place, name in enumerate(order):
                    self._tell(f"{name}, {turn + 1} of {repeat}", whole)
                    recording = await _record(self._clients[name], self._request)
                    self._result.runs.append(_run(recording, name, turn, place))
            for name in names:
                self._tell(f"{name}, counting bytes", whole)
                self._result.bytes[name] = await self._weigh(name)
            self._progress("done", 1.0)
        finally:
            for client in self._clients.values():
                await client.aclose()

    def _tell(self, what: str, whole: int) -> None:
        self._progress(what, self._passes / whole)
        self._passes += 1

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


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None
