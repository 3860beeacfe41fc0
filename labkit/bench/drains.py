"""Clients that only drain: the bytes of a stream are read and dropped, so that a server is what is measured.

Each opens one connection and asks for so many answers in turn. They speak just enough of their protocol to
ask and to see the end; an interface without one is read by its own labkit client, which costs the machine
more but the server the same.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from labkit import interfaces
from labkit.bench import raw
from labkit.errors import ConnectionLost
from labkit.events import Finished, GenerateRequest

Drain = Callable[[str, int, int], Awaitable[None]]

READ = 64 * 1024
TAIL = 512
REFUSAL = re.compile(rb"HTTP/1.1 [345]")
RAW_END = re.compile(re.escape(raw.END) + rb"$")
SSE_END = re.compile(rb"\r\n0\r\n\r\n$")
WEBSOCKET_END = re.compile(rb'"(finished|failed|error)"[^{]*}$')
PROMPT = "measure"


def drain(interface: str) -> Drain:
    """`drain(url, tokens, answers)` for an interface."""
    known: dict[str, Drain] = {"raw": _raw, "sse": _sse, "websocket": _websocket, "grpc": _grpc}
    return known.get(interface) or _own_client(interface)


@asynccontextmanager
async def _connect(url: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    host, _, port = url.partition("://")[2].rpartition(":")
    reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    try:
        yield reader, writer
    finally:
        writer.close()


async def _until(reader: asyncio.StreamReader, end: re.Pattern[bytes], proof: bytes = b"") -> None:
    """Read until `end` matches the last bytes that came; `proof` of a good answer must be among them."""
    tail = b""
    while not end.search(tail):
        data = await reader.read(READ)
        if not data:
            raise ConnectionLost("the server closed the connection while it was measured")
        tail = (tail + data)[-TAIL:]
        if REFUSAL.match(data):
            raise ConnectionLost(f"the server refused to be measured: {data[:12].decode()}")
    if proof not in tail:
        raise ConnectionLost("an answer broke off while it was measured")


async def _raw(url: str, tokens: int, answers: int) -> None:
    async with _connect(url) as (reader, writer):
        for _ in range(answers):
            writer.write(b"%d\n" % tokens)
            await _until(reader, RAW_END)


def _ask(tokens: int, **more: str) -> bytes:
    return json.dumps({**more, "prompt": PROMPT, "max_tokens": tokens}).encode()


async def _sse(url: str, tokens: int, answers: int) -> None:
    body = _ask(tokens)
    head = "POST /generate HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
    request = f"{head}content-length: {len(body)}\r\n\r\n".encode() + body
    async with _connect(url) as (reader, writer):
        for _ in range(answers):
            writer.write(request)
            await _until(reader, SSE_END, b"event: finished")


async def _websocket(url: str, tokens: int, answers: int) -> None:
    upgrade = (
        "GET /ws/bench HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
        "sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    body = _ask(tokens, type="generate")
    mask = bytes(4)  # a client must mask; by zeros, the text stays as it is
    frame = bytes([0x81, 0x80 | len(body)]) + mask + body
    async with _connect(url) as (reader, writer):
        writer.write(upgrade.encode())
        await reader.readuntil(b"\r\n\r\n")
        for _ in range(answers):
            writer.write(frame)
            await _until(reader, WEBSOCKET_END, b'"finished"')


async def _grpc(url: str, tokens: int, answers: int) -> None:
    from grpc import aio

    from labkit.wire.proto import inference_pb2 as pb

    # Without a pool of its own, all channels to one address share a connection.
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
    async with aio.insecure_channel(url.partition("://")[2], options=options) as channel:
        generate: aio.UnaryStreamMultiCallable[pb.GenerateRequest, bytes] = channel.unary_stream(
            "/inference.InferenceService/Generate",
            request_serializer=pb.GenerateRequest.SerializeToString,
            response_deserializer=None,
        )
        try:
            for _ in range(answers):
                async for _reply in generate(pb.GenerateRequest(prompt=PROMPT, max_tokens=tokens)):
                    pass
        except aio.AioRpcError as error:
            raise ConnectionLost(f"grpc: {error.details()}") from None


def _own_client(interface: str) -> Drain:
    async def drain_by_client(url: str, tokens: int, answers: int) -> None:
        request = GenerateRequest(prompt=PROMPT, max_tokens=tokens)
        async with interfaces.client(interface)(url) as client:
            for _ in range(answers):
                recording = await client.record(request)
                if not isinstance(recording.end, Finished):
                    raise ConnectionLost(f"{interface}: an answer broke off while it was measured")

    return drain_by_client
