"""WebSocket: one socket for many answers, told apart by request id."""

import asyncio
import json
import re
import time
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any
from uuid import uuid4

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException

from labkit.client import Chunk, Client
from labkit.errors import ConnectionLost, InvalidRequest, LabkitError, from_code
from labkit.events import Event, GenerateRequest, Terminal
from labkit.net.drain import drain
from labkit.wire import native

MAX_UNREAD = 64
LAST_EVENT = re.compile(rb'"(finished|failed|error)"[^{]*}$')
UPGRADE = (
    b"GET /ws/drain HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


class Reply(msgspec.Struct):
    """What every message has, whatever its kind."""

    type: str
    request_id: str | None = None
    code: str = ""
    message: str = ""


class WebSocketClient(Client):
    """`generate` on `/ws/{client_id}`; connects at the first request and again if the socket was closed.

    A WebSocket has no flow control for each answer: while one reader has `MAX_UNREAD` chunks waiting, the
    whole socket waits with it.
    """

    name = "websocket"
    rank = 30
    cpu_target = 3.5

    def __init__(self, url: str, client_id: str | None = None) -> None:
        super().__init__(url)
        self.client_id = client_id or uuid4().hex[:12]
        self._socket: ClientConnection | None = None
        self._reader: asyncio.Task[None] | None = None
        self._connecting = asyncio.Lock()
        self._open: dict[str, asyncio.Queue[Chunk | LabkitError]] = {}
        self._taken = asyncio.Event()

    async def chunks(self, request: GenerateRequest) -> AsyncGenerator[Chunk, None]:
        request_id = request.request_id or uuid4().hex[:12]
        fields = {**native.request_to_dict(request), "request_id": request_id}
        arrivals: asyncio.Queue[Chunk | LabkitError] = asyncio.Queue()
        if request_id in self._open:
            raise InvalidRequest(f"request_id: {request_id} is in use on this socket")
        await self._connect()
        self._open[request_id] = arrivals
        ended = False
        try:
            await self._send({"type": "generate", **fields})
            while not ended:
                arrival = await arrivals.get()
                self._taken.set()
                if isinstance(arrival, LabkitError):
                    ended = True
                    raise arrival
                ended = isinstance(arrival.events[-1], Terminal)
                yield arrival
        finally:
            self._open.pop(request_id, None)
            self._taken.set()
            if not ended:
                with suppress(ConnectionLost):
                    await self._send({"type": "cancel", "request_id": request_id})

    @classmethod
    async def drain(cls, url: str, request: GenerateRequest, answers: int) -> None:
        question = _text_frame(json.dumps({"type": "generate", **native.request_to_dict(request)}).encode())
        await drain(url, question, answers, end=LAST_EVENT, proof=b'"finished"', handshake=UPGRADE)

    async def aclose(self) -> None:
        self._lost("the client was closed")
        if self._socket is not None:
            await self._socket.close()
        if self._reader is not None:
            await self._reader

    async def _connect(self) -> None:
        async with self._connecting:
            if self._reader is not None and not self._reader.done():
                return
            try:
                self._socket = await connect(
                    f"{self.url}/ws/{self.client_id}",
                    compression=None,
                    proxy=None,
                    max_queue=16,
                    ping_interval=None,  # while a slow reader holds the socket up, no pong would be seen
                )
            except OSError as error:
                raise self.unreachable(error) from error
            except (ValueError, WebSocketException) as error:
                raise ConnectionLost(f"{self.name}: {self.url}: {error}") from error
            self._reader = asyncio.get_running_loop().create_task(self._read(self._socket))

    async def _send(self, fields: dict[str, Any]) -> None:
        assert self._socket is not None
        try:
            await self._socket.send(json.dumps(fields))
        except ConnectionClosed as error:
            raise ConnectionLost(f"{self.name}: {error}") from error

    async def _read(self, socket: ClientConnection) -> None:
        reason = "the server closed the socket"
        try:
            async for message in socket:
                self._arrived(message, time.monotonic_ns())
                while any(arrivals.qsize() >= MAX_UNREAD for arrivals in self._open.values()):
                    self._taken.clear()
                    await self._taken.wait()
        except (ConnectionClosed, ConnectionLost) as error:
            reason = str(error)
        finally:
            self._lost(reason)
            await socket.close()

    def _refused(self, arrivals: "asyncio.Queue[Chunk | LabkitError] | None", error: LabkitError) -> None:
        """Hand an error to the request it names, or to the only one there is."""
        if arrivals is None and len(self._open) == 1:
            arrivals = next(iter(self._open.values()))
        if arrivals is not None:
            arrivals.put_nowait(error)

    def _lost(self, reason: str) -> None:
        for arrivals in self._open.values():
            arrivals.put_nowait(ConnectionLost(f"{self.name}: {reason}"))
        self._open.clear()
        self._taken.set()

    def _arrived(self, message: str | bytes, received_ns: int) -> None:
        try:
            replies = msgspec.json.decode(message, type=Reply | list[Reply])
        except msgspec.MsgspecError as error:
            raise ConnectionLost(f"the server's message is none of labkit's: {error}") from error
        first = replies[0] if isinstance(replies, list) else replies
        arrivals = self._open.get(first.request_id or "")
        if first.type == "error":
            self._refused(arrivals, from_code(first.code, first.message))
            return
        if arrivals is None:  # an answer that was cancelled here, still on its way
            return
        arrivals.put_nowait(Chunk(received_ns, decode(message)))


def decode(message: str | bytes) -> list[Event]:
    """The events of one frame, which holds one object or a list."""
    several = message[:1] in ("[", b"[")
    return native.events_from_json(message) if several else [native.event_from_json(message)]


def _text_frame(text: bytes) -> bytes:
    """A client's frame (RFC 6455, 5.2) around a text below 64 KiB.

    A client must mask its frames; the mask here is zero, which leaves the text as it is.
    """
    length = bytes([0x80 | len(text)]) if len(text) < 126 else bytes([0x80 | 126]) + len(text).to_bytes(2)
    return b"\x81" + length + bytes(4) + text
