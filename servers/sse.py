"""SSE: `GET` and `POST /generate` stream the answer as server-sent events with ids."""

from typing import Annotated

from fastapi import Body, Query
from sse_starlette import EventSourceResponse
from starlette.types import Receive, Scope, Send

from labkit import eventstream, wire
from labkit.asgi import AsgiListener, application
from labkit.events import Event, Failed, Finished, GenerateRequest, Started, Token
from labkit.service import Delivery, Service

KINDS = {Started: b"started", Token: b"token", Finished: b"finished", Failed: b"failed"}


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
    """A delivery as an event stream, one group of events a chunk; closes it however the response ends.

    From sse-starlette come the headers, keep-alive comments and the watch for a client that leaves.
    """

    def __init__(self, delivery: Delivery) -> None:
        super().__init__(delivery, sep="\n")
        self._delivery = delivery

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._delivery.aclose()

    async def _stream_response(self, send: Send) -> None:
        # The parent's loop opens a cancel scope and formats a log line for each chunk: twice what all the
        # rest of a token's way costs.
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for group in self._delivery:
            await send({"type": "http.response.body", "body": encode(group), "more_body": True})
        async with self._send_lock:
            self.active = False
            await send({"type": "http.response.body", "body": b"", "more_body": False})


def encode(group: list[Event]) -> bytes:
    """A group as the bytes of one write."""
    return b"".join([eventstream.encode(wire.event_to_json(e), KINDS[type(e)], e.id) for e in group])
