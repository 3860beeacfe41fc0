"""What a chapter needs to write a small server itself, and to compare it with labkit's."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import grpc
import uvicorn
from starlette.applications import Starlette
from websockets.asyncio import server as websockets

from labkit.engine.scripted import SCRIPT, ScriptedEngine
from labkit.engine.text_stream import TokenStream
from labkit.events import GenerateRequest
from labkit.interfaces import Listener
from labkit.launch.launcher import serve
from labkit.launch.server import Server

Answer = Callable[[websockets.ServerConnection], Awaitable[None]]
"""What answers the messages of one WebSocket, until it is closed."""

_log = logging.getLogger(__name__)  # what goes wrong in a small server is the client's to see
_log.addHandler(logging.NullHandler())
_log.propagate = False
_running: dict[str, Server] = {}


class Writer(ScriptedEngine):
    """A stand-in for a model that counts the words that it has written.

    A small server loops over `words`; a server of labkit's takes the writer as its engine.
    """

    def __init__(self, interval_ms: float = 10.0) -> None:
        super().__init__(tokens=10**9, interval_ms=interval_ms)
        self._written = 0
        self._streams: list[TokenStream] = []

    @property
    def written(self) -> int:
        """How many words it has written, for all its readers together."""
        return self._written + sum(stream.produced for stream in self._streams)

    async def words(self, count: int) -> AsyncIterator[str]:
        """Write `count` words, with `interval_ms` before each."""
        for number in range(count):
            await asyncio.sleep(self.interval_ms / 1e3)
            self._written += 1
            yield SCRIPT[number % len(SCRIPT)]

    def submit(self, request: GenerateRequest) -> TokenStream:
        self._streams.append(super().submit(request))
        return self._streams[-1]


def in_background(what: Starlette | Answer | grpc.Server) -> Server:
    """Run a FastAPI app, the answers to a WebSocket, or a gRPC server, on a free port; stop the one before.

    It has `url` and `stop`, and `labkit.stop_all` stops it too.
    """
    if before := _running.pop("small", None):
        before.stop()
    listener: Listener
    if isinstance(what, Starlette):
        listener = _Uvicorn(what)
    elif isinstance(what, grpc.Server):
        listener = _GRPC(what)
    else:
        listener = _WebSockets(what)

    def small(_: Any) -> Listener:
        return listener

    _running["small"] = server = serve(small, "scripted")
    return server


class _Uvicorn:
    scheme = "http"

    def __init__(self, app: Starlette) -> None:
        self._app = app

    async def start(self, host: str, port: int) -> int:
        config = uvicorn.Config(self._app, host, port, lifespan="off", access_log=False, log_level="critical")
        self._server = uvicorn.Server(config)
        self._task = asyncio.get_running_loop().create_task(self._server.serve())
        while not self._server.started:
            await asyncio.sleep(0.005)
        return int(self._server.servers[0].sockets[0].getsockname()[1])

    async def stop(self) -> None:
        self._server.should_exit = self._server.force_exit = True
        for connection in list(self._server.server_state.connections):
            connection.transport.abort()
        await asyncio.wait([self._task], timeout=1.0)


class _WebSockets:
    scheme = "ws"

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    async def start(self, host: str, port: int) -> int:
        self._server = await websockets.serve(self._answer, host, port, logger=_log)
        return int(next(iter(self._server.sockets)).getsockname()[1])

    async def stop(self) -> None:
        for connection in list(self._server.connections):
            connection.transport.abort()
        self._server.close()
        await asyncio.wait_for(self._server.wait_closed(), 1.0)


class _GRPC:
    scheme = "grpc"

    def __init__(self, server: grpc.Server) -> None:
        self._server = server

    async def start(self, host: str, port: int) -> int:
        bound = int(self._server.add_insecure_port(f"{host}:{port}"))
        self._server.start()
        return bound

    async def stop(self) -> None:
        self._server.stop(grace=None).wait(1.0)
        del self._server  # its pool's threads end when nobody has the pool


@contextmanager
def silent_reader(url: str) -> Iterator[None]:
    """Ask for an http URL, and read nothing of the answer while the context lasts."""
    parts = urlsplit(url)
    with socket.create_connection((str(parts.hostname), int(parts.port or 80))) as line:
        line.sendall(f"GET {parts.path}?{parts.query} HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode())
        yield
