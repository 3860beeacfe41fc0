"""SSE: `GET` and `POST /generate` stream the answer as server-sent events with ids."""

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Body, Query
from sse_starlette import EventSourceResponse
from starlette.types import Message, Receive, Scope, Send

from labkit import eventstream, wire
from labkit.asgi import AsgiListener, application
from labkit.events import Event, GenerateRequest
from labkit.service import Delivery, Service


def create(service: Service) -> AsgiListener:
    app = application(service, "labkit SSE")

    @app.get("/generate")
    async def generate_get(query: Annotated[GenerateRequest, Query()]) -> EventStream:
        return EventStream(service.generate(query))

    @app.post("/generate")
    async def generate_post(body: Annotated[GenerateRequest, Body()]) -> EventStream:
        return EventStream(service.generate(body))

    return AsgiListener(app)


class EventStream(EventSourceResponse):
    """Writes a delivery, one group of events a chunk, and closes it however the response ends."""

    def __init__(self, delivery: Delivery) -> None:
        super().__init__(encoded(delivery), sep="\n")
        self._delivery = delivery

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._delivery.aclose()

    async def _send_with_timeout(self, send: Send, message: Message) -> None:
        # sse-starlette opens a cancel scope around every send, which costs three times the send itself,
        # and without a `send_timeout` it bounds nothing.
        await send(message)


async def encoded(delivery: Delivery) -> AsyncIterator[bytes]:
    async for group in delivery:
        yield encode(group[0]) if len(group) == 1 else b"".join(map(encode, group))


def encode(event: Event) -> bytes:
    data = wire.event_to_json(event)
    return eventstream.encode(data, event=event.__struct_config__.tag, id=event.id)
