"""SSE: a POST whose response is an event stream, parsed as it comes."""

import time
from collections.abc import AsyncGenerator

import httpx

from labkit.client import Chunk, Client
from labkit.events import GenerateRequest
from labkit.web import http
from labkit.wire import native
from labkit.wire.eventstream import Parser


class SSEClient(Client):
    """`POST /generate`, since a prompt does not belong in a URL; a browser's EventSource uses `GET`."""

    name = "sse"

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._http = http.pooled(url)

    async def chunks(self, request: GenerateRequest) -> AsyncGenerator[Chunk, None]:
        parser = Parser()
        try:
            async with self._http.stream(
                "POST", "/generate", content=native.request_to_json(request)
            ) as response:
                if not response.is_success:
                    raise http.refusal(response.status_code, await response.aread())
                async for data in response.aiter_raw():
                    received = time.monotonic_ns()
                    events = [native.event_from_json(event.data) for event in parser.feed(data)]
                    if events:
                        yield Chunk(received, events)
        except httpx.TransportError as error:
            raise http.lost(self.name, error) from error

    async def aclose(self) -> None:
        await self._http.aclose()
