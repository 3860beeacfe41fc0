"""The listening socket of every HTTP-borne server, and uvicorn on it."""

import asyncio
import errno
import socket
import sys
from contextlib import suppress
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from labkit.errors import StartError
from labkit.log import adopt
from labkit.web.app import forget_handlers
from labkit.web.deadlines import Deadlines
from labkit.web.guard import HEADERS_TOO_LARGE, MAX_BODY, MAX_HEADERS, Guard
from labkit.web.patience import Patience
from labkit.web.pipeline import Pipeline
from labkit.web.sockets import Sockets
from labkit.web.turns import Turns

TCP_RTO_MAX_MS = 44  # linux/tcp.h; Python's socket module does not name it yet


def listen(host: str, port: int) -> socket.socket:
    """Open a TCP listener whose connections hold little in the kernel and notice a peer that is gone.

    The send buffer is 16 KiB. With the kernel's default, tens of thousands of tokens would go to a stalled
    reader before backpressure reaches the engine. Keepalive ends an idle connection about eleven seconds
    after its peer has gone, and `Patience` ends one for which bytes wait. For its sake the kernel asks an
    unheard peer again every four seconds at most (Linux 6.15).

    Raises:
        StartError: the port is in use, or the address is not one of this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16 * 1024)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        ("TCP_KEEPIDLE", 5),
        ("TCP_KEEPINTVL", 2),
        ("TCP_KEEPCNT", 3),
    ):
        if hasattr(socket, option):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    if sys.platform == "linux":
        with suppress(OSError):  # an older kernel
            sock.setsockopt(socket.IPPROTO_TCP, TCP_RTO_MAX_MS, 4_000)
    try:
        sock.bind((host, port))
        sock.listen(1024)
    except OSError as error:
        sock.close()
        raise cannot_listen(host, port, error) from None
    sock.setblocking(False)
    return sock


def cannot_listen(host: str, port: int, error: OSError) -> StartError:
    """Make the error that says in one line why an address cannot be used, and what to do."""
    if error.errno == errno.EADDRINUSE:
        return StartError(f"port {port} on {host} is in use: choose another, or 0 for any free one")
    return StartError(f"cannot listen on {host}:{port}: {error.strerror or error}")


LINGER = 1024 * 1024
"""So many bytes of a refused body are read and dropped. A connection that closes before they are read is
reset, and then a client that still sends does not see the refusal (RFC 9112, 9.6)."""


class BoundedLines(Pipeline, Deadlines):
    """uvicorn's HTTP/1.1 parser with limits that it lacks: on headers, on trailers, on a refused body."""

    _pending = 0  # bytes since the last complete headers, part of a body, or message
    _since_headers = 0  # bytes of the body so far, with what frames its chunks

    def on_headers_complete(self) -> None:
        self._pending = self._since_headers = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._pending = 0
        super().on_body(body)
        if self._since_headers > MAX_BODY + LINGER and self.cycle.response_complete:
            self.transport.close()  # it has its answer and sends on

    def on_message_complete(self) -> None:
        self._pending = 0
        super().on_message_complete()

    def data_received(self, data: bytes) -> None:
        self._pending += len(data)
        self._since_headers += len(data)
        super().data_received(data)
        if self._pending <= MAX_HEADERS or self.transport.is_closing():
            return
        self.refuse(431 if self.headers else 400, "too_large", HEADERS_TOO_LARGE)

    def send_400_response(self, msg: str) -> None:
        self.refuse(400, "invalid_request", msg)


def _connection(**options: Any) -> Turns:
    return Turns(BoundedLines(**options))


class AsgiListener:
    """Runs one ASGI app with uvicorn on the running loop."""

    def __init__(self, app: ASGIApp, scheme: str = "http") -> None:
        self.scheme = scheme
        self._app = app
        self._server: uvicorn.Server | None = None
        self._task: asyncio.Task[None] | None = None
        self._watch: asyncio.Task[None] | None = None

    async def start(self, host: str, port: int) -> int:
        """Listen and serve; returns the port.

        Raises:
            StartError: it cannot listen on the address.
        """
        sock = listen(host, port)
        config = uvicorn.Config(
            Guard(self._app, host),
            http=_connection,  # type: ignore[arg-type]
            ws=Sockets,
            timeout_keep_alive=60,  # `Deadlines` ends it before
            ws_max_size=MAX_BODY,
            ws_per_message_deflate=False,
            ws_ping_timeout=None,  # a slow reader comes to a ping late: `Patience` judges it by what it reads
            lifespan="off",
            access_log=False,
            log_config=None,
            log_level="error",
        )
        adopt("uvicorn")
        self._server = uvicorn.Server(config)
        self._task = asyncio.get_running_loop().create_task(self._server.serve(sockets=[sock]))
        while not self._server.started and not self._task.done():
            await asyncio.sleep(0.005)
        if not self._server.started:
            raise StartError("the HTTP server ended as it began") from self._task.exception()
        connections = self._server.server_state.connections
        self._watch = asyncio.get_running_loop().create_task(Patience(connections).watch())
        return int(sock.getsockname()[1])

    async def stop(self, grace_s: float = 0.4) -> None:
        """Let the responses end, then abort the connections whose responses have not ended."""
        if self._watch is not None:
            self._watch.cancel()
        if self._server is None or self._task is None:
            return
        self._server.should_exit = True
        _, unfinished = await asyncio.wait([self._task], timeout=grace_s)
        if unfinished:
            self._server.force_exit = True
            for connection in list(self._server.server_state.connections):
                connection.transport.abort()
            await asyncio.wait([self._task], timeout=grace_s)
        forget_handlers()
