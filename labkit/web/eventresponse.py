"""A delivery as an HTTP response, for any interface that speaks in server-sent events."""

from collections.abc import Callable
from typing import get_args

from sse_starlette import EventSourceResponse
from starlette.types import Receive, Scope, Send

from labkit.events import Event, Group
from labkit.service.delivery import Delivery
from labkit.wire import eventstream, native

TAGS: dict[type, bytes] = {kind: kind.__struct_config__.tag.encode() for kind in get_args(Event)}


def encode(group: Group) -> bytes:
    """Encode a group in labkit's own form, as the bytes of one write."""
    return b"".join(map(_block, group.written()))


def _block(event: Event) -> bytes:
    return eventstream.encode(native.to_json(event), TAGS[type(event)], event.id)


class EventStream(EventSourceResponse):
    """Writes one group of events a chunk, as `encode` forms it; closes the delivery however it ends.

    sse-starlette adds the headers and keep-alive comments, and watches for a client that leaves.

    Args:
        delivery: the answer.
        encode: the bytes of a group.
        on_end: is called with the last event when all is written.
    """

    def __init__(
        self,
        delivery: Delivery,
        encode: Callable[[Group], bytes] = encode,
        on_end: Callable[[Event], None] = lambda event: None,
    ) -> None:
        super().__init__(delivery, sep="\n")
        self._delivery = delivery
        self._encode = encode
        self._on_end = on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._delivery.aclose()

    async def _stream_response(self, send: Send) -> None:
        # The parent's loop opens a cancel scope and formats a log line for each chunk. That costs twice as
        # much as the rest of a token's path.
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        group: Group | None = None
        async for group in self._delivery:
            await send({"type": "http.response.body", "body": self._encode(group), "more_body": True})
        if group is not None:
            self._on_end(group.events[-1])
        async with self._send_lock:
            self.active = False
            await send({"type": "http.response.body", "body": b"", "more_body": False})
