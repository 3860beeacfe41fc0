"""What every HTTP-borne server shares: its listening socket, the guards before the app, its errors."""

import asyncio
import errno
import socket
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from labkit.errors import LabkitError, StartError
from labkit.events import explain
from labkit.service import Service

T = TypeVar("T")

MAX_BODY = 256 * 1024
MAX_HEADERS = 16 * 1024
BODY_TOO_LARGE = f"the body is over {MAX_BODY} bytes"
LOOPBACK = {"127.0.0.1", "localhost", "[::1]"}
STATUS = {
    "invalid_request": 422,
    "too_large": 413,
    "overloaded": 503,
    "stopping": 503,
    "engine_failed": 500,
}


def listen(host: str, port: int) -> socket.socket:
    """A TCP listener whose connections hold little in the kernel and notice a peer that is gone.

    A send buffer of 16 KiB keeps a stalled reader from swallowing tens of thousands of tokens before
    backpressure reaches the engine. The time-outs (Linux) reap in about ten seconds a peer that is gone, and
    one that has not read a byte for as long.

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
        ("TCP_USER_TIMEOUT", 10_000),
    ):
        if hasattr(socket, option):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    try:
        sock.bind((host, port))
        sock.listen(1024)
    except OSError as error:
        sock.close()
        raise cannot_listen(host, port, error) from None
    sock.setblocking(False)
    return sock


def cannot_listen(host: str, port: int, error: OSError) -> StartError:
    """The one line that says why an address cannot be listened on, and what to do."""
    if error.errno == errno.EADDRINUSE:
        return StartError(f"port {port} on {host} is in use: choose another, or 0 for any free one")
    return StartError(f"cannot listen on {host}:{port}: {error.strerror or error}")


class BoundedLines(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 parser, which by itself collects headers and trailers without a limit."""

    _pending = 0  # bytes since the headers, a piece of the body or the message was last complete

    def on_headers_complete(self) -> None:
        self._pending = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._pending = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._pending = 0
        super().on_message_complete()

    def data_received(self, data: bytes) -> None:
        self._pending += len(data)
        super().data_received(data)
        if self._pending <= MAX_HEADERS or self.transport.is_closing():
            return
        if self.cycle is not None and not self.cycle.response_complete:
            self.transport.abort()  # trailers, or the next request's headers, while a response is under way
        else:
            self.send_400_response("Request header fields too large.")


class AsgiListener:
    """Runs one ASGI app with uvicorn on the running loop."""

    def __init__(self, app: ASGIApp, scheme: str = "http") -> None:
        self.scheme = scheme
        self._app = app
        self._server: uvicorn.Server | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self, host: str, port: int) -> int:
        """Listen and serve; returns the port.

        Raises:
            StartError: the address cannot be listened on.
        """
        sock = listen(host, port)
        config = uvicorn.Config(
            Guard(self._app, host),
            http=BoundedLines,
            ws="websockets-sansio",
            ws_max_size=MAX_BODY,
            ws_per_message_deflate=False,
            lifespan="off",
            access_log=False,
            log_level="error",
        )
        self._server = uvicorn.Server(config)
        self._task = asyncio.get_running_loop().create_task(self._server.serve(sockets=[sock]))
        while not self._server.started and not self._task.done():
            await asyncio.sleep(0.005)
        if not self._server.started:
            raise StartError("the HTTP server ended as it began") from self._task.exception()
        return int(sock.getsockname()[1])

    async def stop(self, grace_s: float = 0.4) -> None:
        """Let the responses end, then cut the connections that have not."""
        if self._server is None or self._task is None:
            return
        self._server.should_exit = True
        _, unfinished = await asyncio.wait([self._task], timeout=grace_s)
        if unfinished:
            self._server.force_exit = True
            for connection in list(self._server.server_state.connections):
                connection.transport.abort()
            await asyncio.wait([self._task], timeout=grace_s)


class Guard:
    """Refuses, before the app sees it, what a browser on a foreign page or a careless client may send.

    A Host that is not this machine's gets 421 and an Origin that is not the server's own 403: without
    these, any page that the user visits could read the streams of a server on loopback. A body over
    `MAX_BODY` bytes gets 413 as soon as it is known. When the server was bound to an address other than
    loopback, its user wants other hosts to reach it and Host is not checked.
    """

    def __init__(self, app: ASGIApp, host: str) -> None:
        self._app = app
        self._loopback = host in LOOPBACK or host == "::1"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        authority = headers.get(b"host", b"").decode("latin-1")
        refusal = self._refusal(authority, headers.get(b"origin", b"").decode("latin-1"))
        length = headers.get(b"content-length", b"0")
        if sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEADERS:
            refusal = 431, "too_large", f"the headers are over {MAX_HEADERS} bytes"
        elif length.isdigit() and int(length) > MAX_BODY:
            refusal = 413, "too_large", BODY_TOO_LARGE
        if refusal is not None:
            await _refuse(scope, receive, send, *refusal)
        elif scope["type"] == "http":
            await self._app(scope, _bounded(receive), send)
        else:
            await self._app(scope, receive, send)

    def _refusal(self, authority: str, origin: str) -> tuple[int, str, str] | None:
        if self._loopback and authority.rsplit(":", 1)[0] not in LOOPBACK and authority not in LOOPBACK:
            return 421, "invalid_request", "this server answers for its own address alone"
        if origin and origin.partition("://")[2] != authority:
            return 403, "invalid_request", "requests from other origins are refused"
        return None


async def _refuse(scope: Scope, receive: Receive, send: Send, status: int, code: str, message: str) -> None:
    response = error_response(status, code, message)
    response.headers["connection"] = "close"
    if scope["type"] == "websocket":
        await receive()
    await response(scope, receive, send)


def _bounded(receive: Receive) -> Callable[[], Awaitable[Message]]:
    """Count a body that came without a length; reading past the limit raises."""
    seen = 0

    async def counted() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > MAX_BODY:
            raise HTTPException(413, BODY_TOO_LARGE)
        return message

    return counted


async def until_disconnected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Run `work`, and cancel it if the client goes away: a plain handler is not told.

    Raises:
        HTTPException: the client has gone; nobody will see the answer (499, as nginx logs it).
    """
    task = asyncio.ensure_future(work)
    watcher = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({task, watcher}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise HTTPException(499, "the client went away")
        return task.result()
    finally:
        task.cancel()
        watcher.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def error_response(status: int, code: str, message: str) -> JSONResponse:
    headers = {"retry-after": "1"} if status == 503 else None
    return JSONResponse({"error": {"code": code, "message": message}}, status, headers)


def application(service: Service, title: str) -> FastAPI:
    """A FastAPI app with `/health` and with every refusal in labkit's form.

    An error is always `{"error": {"code", "message"}}`; the message never echoes the input.
    """
    app = FastAPI(title=title)

    async def refused(_: Request, error: LabkitError) -> JSONResponse:
        return error_response(STATUS.get(error.code, 500), error.code, str(error))

    async def unreadable(_: Request, error: RequestValidationError) -> JSONResponse:
        return error_response(422, "invalid_request", explain(error.errors()))

    async def http_error(_: Request, error: HTTPException) -> JSONResponse:
        code = "too_large" if error.status_code == 413 else "invalid_request"
        return error_response(error.status_code, code, str(error.detail))

    handlers: dict[type[Exception], Any] = {
        LabkitError: refused,
        RequestValidationError: unreadable,
        HTTPException: http_error,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)

    @app.get("/health")
    async def health() -> JSONResponse:
        told = service.health()
        return JSONResponse(told, 503 if told["status"] == "failed" else 200)

    return app
