"""SSE: a POST whose response is an event stream, parsed as it comes."""

import re
import time
from collections.abc import AsyncGenerator
from urllib.parse import quote

import httpx

from labkit.client import Chunk, Client
from labkit.events import Event, GenerateRequest, Terminal
from labkit.net.drain import drain
from labkit.web import http
from labkit.wire import native
from labkit.wire.eventstream import Parser, ServerSentEvent

LAST_HTTP_CHUNK = re.compile(rb"\r\n0\r\n\r\n$")


class SSEClient(Client):
    """`POST /generate`, since a prompt does not belong in a URL; a browser's EventSource uses `GET`."""

    name = "sse"
    rank = 20
    cpu_target = 3.0

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._http = http.pooled(self.url)

    async def chunks(self, request: GenerateRequest) -> AsyncGenerator[Chunk, None]:
        parser = Parser()
        try:
            async with self._http.stream(
                "POST", "/generate", content=native.request_to_json(request)
            ) as response:
                if not response.is_success:
                    raise http.refusal(response, (await http.whole(self.name, response))[1])
                http.check_plain(self.name, response)
                reads = response.aiter_raw()
                async for data in reads:
                    received = time.monotonic_ns()
                    events = _up_to_the_end(parser.feed(data))
                    if not events:
                        continue
                    yield Chunk(received, events)
                    if isinstance(events[-1], Terminal):
                        await http.read_out(reads)
                        return
        except httpx.TransportError as error:
            raise http.lost(self, error) from error

    @classmethod
    def example(cls, url: str, prompt: str) -> str:
        return f"{http.curl()} -N '{url}/generate?prompt={quote(prompt)}'"

    @classmethod
    async def drain(cls, url: str, request: GenerateRequest, answers: int) -> None:
        body = native.request_to_json(request)
        head = (
            "POST /generate HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\n\r\n"
        )
        await drain(url, head.encode() + body, answers, end=LAST_HTTP_CHUNK, proof=b"event: finished")

    async def aclose(self) -> None:
        await self._http.aclose()


def _up_to_the_end(blocks: list[ServerSentEvent]) -> list[Event]:
    """The events of one read; what comes after the last one of the answer is none of the client's."""
    events: list[Event] = []
    for block in blocks:
        events.append(native.event_from_json(block.data))
        if isinstance(events[-1], Terminal):
            break
    return events
