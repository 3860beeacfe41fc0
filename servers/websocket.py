"""WebSocket: `generate` and `cancel` messages on `/ws/{client_id}`, many answers at once on one socket.

In:  {"type": "generate", "request_id": "a", "prompt": …}   {"type": "cancel", "request_id": "a"}
Out: the events as JSON, each with its `request_id`; a group of several as a JSON list, one message a write.
A message that cannot be used is answered by {"type": "error", …} and the socket stays open. A `cancel` that
comes too late, or for an id that has no answer, is passed over. An id is free again once its answer has ended
or is being cancelled; the events of the new answer come after those of the old one.
"""

import asyncio
import json
from typing import Any
from uuid import uuid4

from fastapi import WebSocket, WebSocketDisconnect

from labkit.errors import InvalidRequest, LabkitError
from labkit.events import Event, GenerateRequest, Group, Started
from labkit.service.admission import Caller
from labkit.service.delivery import Delivery
from labkit.service.service import Service
from labkit.web.app import application, caller
from labkit.web.listener import AsgiListener
from labkit.wire import native

GOING_AWAY = 1001


def create(service: Service) -> AsgiListener:
    app = application(service, "labkit WebSocket")

    @app.websocket("/ws/{client_id}")
    async def connect(socket: WebSocket, client_id: str) -> None:
        await socket.accept()
        await Conversation(service, socket).run()

    return AsgiListener(app, scheme="ws")


class Conversation:
    """One socket: reads its messages, and runs a task for each answer by the answer's request id."""

    def __init__(self, service: Service, socket: WebSocket) -> None:
        self._service = service
        self._socket = socket
        self._caller = Caller(caller(socket).host, connection=uuid4().hex)
        self._open: dict[str, Delivery] = {}  # the latest of each request id
        self._tasks: dict[Delivery, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Serve until the client leaves; then stop the work for all its answers."""
        try:
            while True:
                await self._receive()
        except WebSocketDisconnect:
            pass
        finally:
            tasks = list(self._tasks.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for delivery in self._tasks:  # of tasks that were cancelled before they began
                await delivery.aclose()

    async def _receive(self) -> None:
        message = await self._socket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1005))
        request_id = None
        try:
            fields = parse(message.get("text"))
            name = fields.get("request_id")
            request_id = name if isinstance(name, str) and len(name) <= 64 else None
            self._dispatch(fields)
        except LabkitError as error:
            reply = {"type": "error", "request_id": request_id, "code": error.code, "message": str(error)}
            await self._send({"type": "websocket.send", "text": json.dumps(reply)})

    async def _send(self, message: dict[str, Any]) -> None:
        """Send, or raise WebSocketDisconnect if the socket is closed or is about to be."""
        try:
            await self._socket.send(message)
        except RuntimeError as error:  # in this way starlette, uvicorn and uvloop say that it is too late
            raise WebSocketDisconnect from error

    def _dispatch(self, fields: dict[str, Any]) -> None:
        kind = fields.pop("type", None)
        if kind == "generate":
            self._generate(GenerateRequest.parse(fields))
        elif kind == "cancel":
            self._cancel(fields.get("request_id"))
        else:
            raise InvalidRequest("type: use generate or cancel")

    def _generate(self, request: GenerateRequest) -> None:
        before = self._open.get(request.request_id or "")
        if before is not None and before.stream.wanted:
            raise InvalidRequest(f"request_id: {request.request_id} is in use on this socket")
        delivery = self._service.generate(request, self._caller)
        answer = self._answer(delivery, None if before is None else self._tasks[before])
        self._open[delivery.request_id] = delivery
        self._tasks[delivery] = asyncio.get_running_loop().create_task(answer)

    def _cancel(self, request_id: object) -> None:
        if not isinstance(request_id, str):
            raise InvalidRequest("request_id: a cancel names its answer")
        if (delivery := self._open.get(request_id)) is not None:
            delivery.cancel()

    async def _answer(self, delivery: Delivery, before: "asyncio.Task[None] | None") -> None:
        """Send an answer, after the one `before` it of the same id."""
        prefix = b'{"request_id":"%b",' % delivery.request_id.encode()
        try:
            if before is not None:
                await asyncio.wait([before])
            async for group in delivery:
                await self._send({"type": "websocket.send", "text": encode(group, prefix)})
            if self._service.stopping and len(self._tasks) == 1:
                await self._send({"type": "websocket.close", "code": GOING_AWAY})
        except WebSocketDisconnect:
            pass
        finally:
            await self._forget(delivery)

    async def _forget(self, delivery: Delivery) -> None:
        del self._tasks[delivery]
        if self._open.get(delivery.request_id) is delivery:
            del self._open[delivery.request_id]
        await delivery.aclose()


def parse(text: str | None) -> dict[str, Any]:
    """Read a text frame as a JSON object.

    Raises:
        InvalidRequest: it is something else.
    """
    try:
        fields = json.loads(text) if text is not None else None
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise InvalidRequest("a message is one JSON object in a text frame")
    return fields


def encode(group: Group, prefix: bytes) -> str:
    """Encode a group as one text frame; `prefix` opens each object with the request's id."""
    events = group.written()
    if len(events) == 1:
        return _object(events[0], prefix)
    return f"[{','.join(_object(event, prefix) for event in events)}]"


def _object(event: Event, prefix: bytes) -> str:
    data = native.to_json(event)
    # `Started` has a field of its own for the request's id
    return (data if type(event) is Started else prefix + data[1:]).decode()
