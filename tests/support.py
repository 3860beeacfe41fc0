"""What several test files share: engines to watch, a cable to cut, ways to wait, a terminal's text."""

import asyncio
import io
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from rich.console import Console

import labkit
from labkit import interfaces
from labkit.client import Client, Recording
from labkit.engine.scripted import SCRIPT, ScriptedEngine
from labkit.engine.text_stream import TokenStream
from labkit.events import GenerateRequest, Started, Token
from labkit.figures.quiet import QUIET, Neighbours
from labkit.launch.server import Server
from labkit.launch.threaded import ThreadServer
from labkit.service.service import Service
from labkit.web.listener import AsgiListener

PATIENCE_S = 60.0  # long enough for a busy machine; a test that passes waits only as long as it needs


def ask(max_tokens: int = 24, **fields: Any) -> GenerateRequest:
    """A request for `max_tokens` tokens. Nothing validates the other fields: a test can send wrong ones."""
    return GenerateRequest.model_construct(**{"prompt": "one two three", "max_tokens": max_tokens, **fields})


def script(count: int) -> list[str]:
    """The texts of the first `count` tokens of every scripted answer."""
    return [SCRIPT[index % len(SCRIPT)] for index in range(count)]


class Watched(ScriptedEngine):
    """The scripted engine; it keeps every stream that it started."""

    def __init__(self, tokens: int = 256, interval_ms: float = 1.0, fail_after: int | None = None) -> None:
        super().__init__(tokens, interval_ms, fail_after)
        self.streams: list[TokenStream] = []

    def submit(self, request: GenerateRequest) -> TokenStream:
        stream = super().submit(request)
        self.streams.append(stream)
        return stream

    def produced(self) -> int:
        """How many tokens all streams together have produced."""
        return sum(stream.produced for stream in self.streams)

    async def all_have_begun(self) -> None:
        """Wait until each stream has some tokens."""
        await until(lambda: self.streams and all(s.produced > 2 for s in self.streams), "tokens come")


class ByHand:
    """An engine whose streams the test fills."""

    name = "by hand"
    failed: str | None = None

    def __init__(self) -> None:
        self.streams: list[TokenStream] = []

    def submit(self, request: GenerateRequest) -> TokenStream:
        self.streams.append(TokenStream(request.request_id or "", stamped=request.stamps))
        return self.streams[-1]

    def tune(self, **knobs: Any) -> None:
        raise NotImplementedError

    def close(self) -> None:
        pass


def thread_server(interface: str, engine: labkit.Engine | str, **options: Any) -> ThreadServer:
    """`labkit.serve` in a thread, typed so that a test can reach the server's service."""
    server = labkit.serve(interface, engine, **options)
    assert isinstance(server, ThreadServer)
    return server


def http_borne() -> list[str]:
    """The interfaces whose servers are ASGI apps behind labkit's HTTP listener and its guards."""
    service = Service(ScriptedEngine())
    return [name for name in interfaces.names() if isinstance(interfaces.server(name)(service), AsgiListener)]


def connect(interface: str, server: Server | str) -> Client:
    return interfaces.client(interface)(server if isinstance(server, str) else server.url)


def tokens(recording: Recording) -> list[Token]:
    return [event for event in recording.events if isinstance(event, Token)]


def assert_whole(recording: Recording, count: int) -> None:
    """The recording is the scripted answer of `count` tokens, complete and in order."""
    events = recording.events
    assert [event.id for event in events] == list(range(count + 2))
    assert isinstance(events[0], Started)
    assert events[0].prompt_tokens == 3
    assert [type(event) for event in events[1:-1]] == [Token] * count
    assert [token.text for token in tokens(recording)] == script(count)
    assert isinstance(recording.end, labkit.Finished)
    assert recording.end.pieces == count


async def until(condition: Callable[[], object], what: str, patience_s: float = PATIENCE_S) -> float:
    """Wait until `condition` holds; return the seconds that it took, or fail with `what`."""
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < patience_s, f"still not after {patience_s:g} s: {what}"
        await asyncio.sleep(0.002)
    return time.monotonic() - start


def assert_unless_busy(neighbours: Neighbours, holds: bool, what: str) -> None:
    """Assert a condition that a busy machine may break; if others kept it busy, skip with the figures."""
    if not holds and (share := neighbours.share()) > QUIET:
        pytest.skip(f"{what}; meanwhile others used {share:.0%} of the processor")
    assert holds, what


async def settled(value: Callable[[], int], quiet_s: float = 0.25) -> int:
    """Wait until a counter has stood still for `quiet_s` and return it."""
    start = since = time.monotonic()
    count = value()
    while time.monotonic() - since < quiet_s:
        assert time.monotonic() - start < PATIENCE_S, f"still growing: {value()}"
        await asyncio.sleep(0.01)
        if value() != count:
            count, since = value(), time.monotonic()
    return count


async def abandoned(task: "asyncio.Task[Any]") -> None:
    """Cancel a task and wait for its end."""
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def outcomes(tasks: Iterable["asyncio.Task[Recording]"]) -> list[Recording | BaseException]:
    """The result or the exception of each task; a task that hangs fails the test."""
    return await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), PATIENCE_S)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Cable:
    """A TCP relay that a test can cut. Both ends then see a reset, as from a peer that died."""

    def __init__(self) -> None:
        self.url = ""
        self._writers: list[asyncio.StreamWriter] = []

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()


@asynccontextmanager
async def cable(url: str, from_host: str = "127.0.0.1") -> AsyncIterator[Cable]:
    """A cable to the server at `url`; clients connect to the cable's own `url` and appear as `from_host`."""
    scheme, _, target = url.partition("://")
    host, _, port = target.rpartition(":")
    laid = Cable()
    pipes: set[asyncio.Task[None]] = set()

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def plugged(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(host, int(port), local_addr=(from_host, 0))
        laid._writers += [writer, far_writer]
        for ends in ((reader, far_writer), (far_reader, writer)):
            pipes.add(asyncio.create_task(pipe(*ends)))

    server = await asyncio.start_server(plugged, "127.0.0.1", 0)
    laid.url = f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield laid
    finally:
        server.close()
        laid.cut()
        await asyncio.sleep(0)  # a connection that came in this turn is plugged in the next
        laid.cut()
        await asyncio.gather(*pipes, return_exceptions=True)


def shown(*parts: object, width: int = 80) -> str:
    """The text that a terminal of this width shows of rich's tables and texts."""
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(*parts)
    return console.export_text()


def command(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run `labkit` with these arguments and wait for its end."""
    return subprocess.run(
        [sys.executable, "-m", "labkit", *arguments], capture_output=True, text=True, timeout=5 * PATIENCE_S
    )
