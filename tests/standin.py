"""A stand-in for an OpenAI-compatible endpoint: it writes OpenAI's bytes, and fails on request."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from support import PATIENCE_S, abandoned

from labkit.engine.openai import OpenAIEngine
from labkit.engine.text_stream import TokenStream
from labkit.events import Event, Failed, GenerateRequest, Token

MODELS = b'{"object":"list","data":[{"id":"first","object":"model","owned_by":"us"},{"id":"second"}]}'


def chunk(delta: str, reason: str = "null") -> bytes:
    """A chat chunk as OpenAI writes it."""
    return (
        'data: {"id":"chatcmpl-B9MHDbslfkBeAs8l4bebGdFOJ6PeG","object":"chat.completion.chunk",'
        '"created":1741570283,"model":"gpt-4o-mini-2024-07-18","service_tier":"default",'
        '"system_fingerprint":"fp_44709d6fcb","choices":[{"index":0,"delta":'
        f'{delta},"logprobs":null,"finish_reason":{reason}}}],"usage":null,"obfuscation":"k7Wq"}}\n\n'
    ).encode()


def says(text: str) -> bytes:
    return chunk(json.dumps({"content": text}))


ROLE = chunk('{"role":"assistant","content":"","refusal":null}')
END = chunk("{}", '"stop"')
USAGE = (
    b'data: {"id":"chatcmpl-B9MHDbslfkBeAs8l4bebGdFOJ6PeG","object":"chat.completion.chunk",'
    b'"created":1741570283,"model":"gpt-4o-mini-2024-07-18","service_tier":"default",'
    b'"system_fingerprint":"fp_44709d6fcb","choices":[],"usage":{"prompt_tokens":19,"completion_tokens":10,'
    b'"total_tokens":29,"prompt_tokens_details":{"cached_tokens":0}},"obfuscation":"f"}\n\n'
)
DONE = b"data: [DONE]\n\n"
HELLO = [ROLE, says("Hello"), says(", wörld"), END, USAGE, DONE]


def text_chunk(text: str, reason: str = "null") -> bytes:
    """A chunk of a plain completion as vLLM writes it."""
    choice = f'{{"index":0,"text":{json.dumps(text)},"logprobs":null,"finish_reason":{reason}}}'
    return f'data: {{"id":"cmpl-1","object":"text_completion","choices":[{choice}]}}\n\n'.encode()


@dataclass
class Call:
    """One request to the stand-in, and its answer. `disconnected` is set when the client leaves."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any
    writer: asyncio.StreamWriter
    disconnected: asyncio.Event = field(default_factory=asyncio.Event)

    async def head(self, status: int = 200, kind: str = "text/event-stream", **headers: str) -> None:
        lines = [f"HTTP/1.1 {status} Because", f"content-type: {kind}", "transfer-encoding: chunked"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
        await self.writer.drain()

    async def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            await self.writer.drain()

    async def end(self) -> None:
        self.writer.write(b"0\r\n\r\n")
        await self.writer.drain()


Responder = Callable[[Call], Awaitable[None]]


class Upstream:
    """The stand-in: every POST gets the next of `answers`, the last of them again and again."""

    def __init__(self, answers: tuple[Responder, ...]) -> None:
        self.url = ""
        self.calls: list[Call] = []
        self.connections = 0
        self.models = replies(200, MODELS)
        self._answers = list(answers)

    @property
    def posts(self) -> list[Call]:
        return [call for call in self.calls if call.method == "POST"]

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                await self._answer(await self._read(reader, writer), reader)
        writer.close()

    async def _read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Call:
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        method, path, _ = first.split()
        self.calls.append(Call(method, path, headers, json.loads(body) if body else None, writer))
        return self.calls[-1]

    async def _answer(self, call: Call, reader: asyncio.StreamReader) -> None:
        watch = asyncio.ensure_future(reader.read(1))
        watch.add_done_callback(lambda task: None if task.cancelled() else call.disconnected.set())
        if call.method == "GET":
            await self.models(call)
        else:
            await (self._answers.pop(0) if len(self._answers) > 1 else self._answers[0])(call)
        await abandoned(watch)


@asynccontextmanager
async def upstream(*answers: Responder, host: str = "127.0.0.1") -> AsyncIterator[Upstream]:
    standing = Upstream(answers)
    server = await asyncio.start_server(standing.connected, host, 0)
    standing.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    try:
        yield standing
    finally:
        server.close()
        for call in standing.calls:
            call.writer.transport.abort()


def streams(*pieces: bytes, then: Responder | None = None) -> Responder:
    """Answer with an event stream of these pieces; then call `then`, or end the body without it."""

    async def answer(call: Call) -> None:
        await call.head()
        await call.send(*pieces)
        await (then or Call.end)(call)

    return answer


def replies(status: int, body: bytes, **headers: str) -> Responder:
    """Answer with this JSON in one piece."""

    async def answer(call: Call) -> None:
        await call.head(status, "application/json", **headers)
        await call.send(body)
        await call.end()

    return answer


async def hangs(call: Call) -> None:
    await call.disconnected.wait()


async def breaks(call: Call) -> None:
    call.writer.transport.abort()


async def drops(call: Call) -> None:
    """Close the connection before any answer."""
    call.writer.close()


@asynccontextmanager
async def engine(url: str, **options: Any) -> AsyncIterator[OpenAIEngine]:
    near = OpenAIEngine(url, **options)
    try:
        yield near
    finally:
        near.close()
        await asyncio.sleep(0.01)


async def collect(stream: TokenStream) -> list[Event]:
    async with asyncio.timeout(PATIENCE_S):
        return [event async for event in stream]


async def ask(answer: Responder, request: GenerateRequest | None = None, **options: Any) -> list[Event]:
    """The events of one request that the stand-in answers with `answer`."""
    async with upstream(answer) as far, engine(far.url, **options) as near:
        return await collect(near.submit(request or GenerateRequest(prompt="hi")))


def text_of(events: list[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, Token)]


async def failure(answer: Responder, **options: Any) -> Failed:
    """How the answer failed."""
    *_, last = await ask(answer, **options)
    assert isinstance(last, Failed), last
    return last
