"""WebSocket: one socket for many answers, told apart by request id."""

import asyncio
import json
import re
import time
from collections.abc import AsyncGenerator
from typing import Any
from uuid import uuid4

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException

from labkit.client import Chunk, Client
from labkit.errors import ConnectionLost, InvalidRequest, LabkitError, from_code
from labkit.events import Event, GenerateRequest, Terminal
from labkit.net.drain import drain
from labkit.wire import MAX_MESSAGE, native

MAX_UNREAD = 64
ENDS = ("finished", "failed", "error")
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
    whole socket waits with it. An id can be asked again at once: the question waits until the answer that was
    left has ended, because its last events have the same id.
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
        self._left: dict[str, asyncio.Event] = {}  # set when the answer's last event has come
        self._taken = asyncio.Event()

    async def chunks(self, request: GenerateRequest) -> AsyncGenerator[Chunk, None]:
        request_id = request.request_id or uuid4().hex[:12]
        fields = {**native.request_to_dict(request), "request_id": request_id}
        arrivals: asyncio.Queue[Chunk | LabkitError] = asyncio.Queue()
        await self._connect()
        while (left := self._left.get(request_id)) is not None:
            await left.wait()
        if request_id in self._open:
            raise InvalidRequest(f"request_id: {request_id} is in use on this socket")
        self._open[request_id] = arrivals
        try:
            await self._send({"type": "generate", **fields})
            while True:
                arrival = await arrivals.get()
                self._taken.set()
                if isinstance(arrival, LabkitError):
                    raise arrival
                yield arrival
                if isinstance(arrival.events[-1], Terminal):
                    return
        finally:
            self._taken.set()
            if self._open.get(request_id) is arrivals:  # its last event has not come
                del self._open[request_id]
                await self._leave(request_id)

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
                    max_size=MAX_MESSAGE,
                    ping_interval=None,  # while a slow reader holds the socket up, no pong would be seen
                )
            except OSError as error:
                raise self.unreachable(error) from error
            except (ValueError, WebSocketException) as error:
                raise ConnectionLost(f"{self.name}: {self.url}: {error}") from error
            self._reader = asyncio.get_running_loop().create_task(self._read(self._socket))

    async def _leave(self, request_id: str) -> None:
        """Tell the server to stop, and remember the id until the answer's last event has come."""
        self._left[request_id] = asyncio.Event()
        try:
            await self._send({"type": "cancel", "request_id": request_id})
        except ConnectionLost:
            self._ended(request_id)

    def _ended(self, request_id: str) -> None:
        if (left := self._left.pop(request_id, None)) is not None:
            left.set()

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

    def _lost(self, reason: str) -> None:
        for arrivals in self._open.values():
            arrivals.put_nowait(ConnectionLost(f"{self.name}: {reason}"))
        self._open.clear()
        for request_id in list(self._left):
            self._ended(request_id)
        self._taken.set()

    def _arrived(self, message: str | bytes, received_ns: int) -> None:
        try:
            replies = msgspec.json.decode(message, type=Reply | list[Reply])
        except msgspec.MsgspecError as error:
            raise ConnectionLost(f"the server's message is none of labkit's: {error}") from error
        last = replies[-1] if isinstance(replies, list) else replies
        request_id = last.request_id or self._only()
        arrivals = self._open.get(request_id)
        arrival: Chunk | LabkitError | None = None  # of an answer that was left, still on its way
        if arrivals is not None:
            refused = last.type == "error"
            arrival = from_code(last.code, last.message) if refused else Chunk(received_ns, decode(message))
        if last.type in ENDS:
            self._open.pop(request_id, None)
            self._ended(request_id)
        if arrivals is not None and arrival is not None:
            arrivals.put_nowait(arrival)

    def _only(self) -> str:
        """The request that an error without an id must belong to, if there is no other."""
        return next(iter(self._open)) if len(self._open) == 1 else ""


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
