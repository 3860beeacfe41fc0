"""WebSocket: `generate` and `cancel` messages on `/ws/{client_id}`, many answers at once on one socket.

In:  {"type": "generate", "request_id": "a", "prompt": …}   {"type": "cancel", "request_id": "a"}
Out: the events as JSON, each with its `request_id`; a group of several as a JSON list, one message a write.
A message that cannot be used is answered by {"type": "error", …} and the socket stays open.
"""

import asyncio
import json
from typing import Any
from uuid import uuid4

from fastapi import WebSocket, WebSocketDisconnect
from starlette.websockets import WebSocketState

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
        self._open: dict[str, Delivery] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Serve until the client leaves; then stop the work for all its answers."""
        try:
            while True:
                await self._receive()
        except WebSocketDisconnect:
            pass
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            for delivery in self._open.values():  # of tasks that were cancelled before they began
                await delivery.aclose()

    async def _receive(self) -> None:
        message = await self._socket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1005))
        request_id = None
        try:
            fields = parse(message.get("text"))
            name = fields.get("request_id")
            request_id = name[:64] if isinstance(name, str) else None
            self._dispatch(fields)
        except LabkitError as error:
            reply = {"type": "error", "request_id": request_id, "code": error.code, "message": str(error)}
            if self._connected:  # a stop of the server may have closed it just now
                await self._socket.send_text(json.dumps(reply))

    def _dispatch(self, fields: dict[str, Any]) -> None:
        kind = fields.pop("type", None)
        if kind == "generate":
            self._generate(GenerateRequest.parse(fields))
        elif kind == "cancel":
            self._cancel(fields.get("request_id"))
        else:
            raise InvalidRequest("type: use generate or cancel")

    def _generate(self, request: GenerateRequest) -> None:
        if request.request_id in self._open:
            raise InvalidRequest(f"request_id: {request.request_id} is in use on this socket")
        delivery = self._service.generate(request, self._caller)
        request_id = delivery.request_id
        self._open[request_id] = delivery
        task = asyncio.get_running_loop().create_task(self._answer(request_id, delivery))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _cancel(self, request_id: object) -> None:
        if not isinstance(request_id, str) or request_id not in self._open:
            raise InvalidRequest("request_id: no answer of that id is open")
        self._open[request_id].cancel()

    async def _answer(self, request_id: str, delivery: Delivery) -> None:
        prefix = b'{"request_id":"%b",' % request_id.encode()
        try:
            async for group in delivery:
                await self._socket.send({"type": "websocket.send", "text": encode(group, prefix)})
            if self._service.stopping:
                await self._leave()
        except WebSocketDisconnect:
            pass
        finally:
            del self._open[request_id]
            await delivery.aclose()

    async def _leave(self) -> None:
        if len(self._open) == 1 and self._connected:
            await self._socket.close(GOING_AWAY)

    @property
    def _connected(self) -> bool:
        return self._socket.application_state is WebSocketState.CONNECTED


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
