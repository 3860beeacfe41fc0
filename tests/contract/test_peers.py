"""Clients against peers other than labkit's: a response held open, compressed, cut late, or endless."""

import asyncio
import gzip
import json
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import grpc
import pytest
from grpc import aio
from standin import Call, Responder, breaks, hangs, replies, streams, upstream
from support import PATIENCE_S, Watched, ask, assert_whole, connect, script, thread_server
from websockets.asyncio.server import ServerConnection, serve

from labkit.errors import LabkitError
from labkit.events import Answer, Event, Finished, Group, Started, Token
from labkit.web.eventresponse import encode
from labkit.wire import MAX_MESSAGE, native, protobuf

COUNT = 3
ANSWER: list[Event] = [
    Started(0, "a", "peer", 3),
    *(Token(place + 1, text=text) for place, text in enumerate(script(COUNT))),
    Finished(COUNT + 1, "length", COUNT),
]
HUGE = Token(1, text="x" * MAX_MESSAGE)
Peer = Callable[[list[Event]], AbstractAsyncContextManager[str]]


@asynccontextmanager
async def sse(events: list[Event], then: Responder = hangs) -> AsyncIterator[str]:
    async with upstream(streams(*(encode(Group([event])) for event in events), then=then)) as far:
        yield far.url


@asynccontextmanager
async def websocket(events: list[Event]) -> AsyncIterator[str]:
    async def answer(socket: ServerConnection) -> None:
        async for question in socket:
            request_id = json.loads(question)["request_id"]
            for event in events:
                await socket.send(json.dumps({**json.loads(native.to_json(event)), "request_id": request_id}))

    async with serve(answer, "127.0.0.1", 0) as server:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@asynccontextmanager
async def grpc_peer(events: list[Event]) -> AsyncIterator[str]:
    async def answer(_: bytes, context: Any) -> AsyncIterator[bytes]:
        for event in events:
            yield protobuf.group_to_proto(Group([event])).SerializeToString()
        await asyncio.sleep(PATIENCE_S)

    server = aio.server()
    handler: Any = grpc.unary_stream_rpc_method_handler(answer)
    generic = grpc.method_handlers_generic_handler("inference.InferenceService", {"Generate": handler})
    server.add_generic_rpc_handlers([generic])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"grpc://127.0.0.1:{port}"
    await server.stop(0)


PEERS: dict[str, Peer] = {"sse": sse, "websocket": websocket, "grpc": grpc_peer}


@pytest.mark.parametrize(("name", "peer"), PEERS.items(), ids=PEERS)
async def test_finished_is_the_end_though_the_peer_holds_the_response_open(name: str, peer: Peer) -> None:
    async with peer(ANSWER) as url, connect(name, url) as client:
        for _ in range(2):
            assert_whole(await asyncio.wait_for(client.record(ask(COUNT)), PATIENCE_S / 2), COUNT)


@pytest.mark.parametrize(("name", "peer"), PEERS.items(), ids=PEERS)
async def test_a_message_over_the_limit_is_told(name: str, peer: Peer) -> None:
    async with peer([ANSWER[0], HUGE]) as url, connect(name, url) as client:
        with pytest.raises(LabkitError, match=r"(?i)over|larger|exceeds") as told:
            await asyncio.wait_for(client.record(ask(COUNT)), PATIENCE_S)
    assert "\n" not in str(told.value) and ("4 MiB" in str(told.value) or str(MAX_MESSAGE) in str(told.value))


@pytest.mark.parametrize("last", ['"tokens": true', '"pieces": "x"'])
@pytest.mark.parametrize("kind", ["finished", "failed"])
async def test_a_last_event_that_is_none_of_labkit_s_is_told(kind: str, last: str) -> None:
    async def answer(socket: ServerConnection) -> None:
        async for question in socket:
            request_id = json.loads(question)["request_id"]
            await socket.send(
                f'{{"type": "{kind}", "id": 1, "request_id": "{request_id}", "code": 1, {last}}}'
            )

    async with serve(answer, "127.0.0.1", 0) as server:
        url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with connect("websocket", url) as client:
            with pytest.raises(LabkitError, match="none of labkit's"):
                await asyncio.wait_for(client.record(ask(COUNT)), PATIENCE_S / 2)


async def test_what_comes_after_finished_is_not_looked_at() -> None:
    async def more(call: Call) -> None:
        await call.head()
        await call.send(b"".join(encode(Group([event])) for event in ANSWER) + b"data: [DONE]\n\n")
        await hangs(call)

    for then in (more, streams(*(encode(Group([event])) for event in ANSWER), then=breaks)):
        async with upstream(then) as far, connect("sse", far.url) as client:
            assert_whole(await asyncio.wait_for(client.record(ask(COUNT)), PATIENCE_S), COUNT)


async def test_a_body_that_ends_leaves_its_connection_for_the_next_request() -> None:
    pieces = [encode(Group([event])) for event in ANSWER]
    async with upstream(streams(*pieces)) as far, connect("sse", far.url) as client:
        for _ in range(3):
            assert_whole(await client.record(ask(COUNT)), COUNT)
        assert far.connections == 1


COMPRESS: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "deflate": zlib.compress, "br": bytes}


@pytest.mark.parametrize("encoding", COMPRESS)
@pytest.mark.parametrize(("name", "status"), [("rest", 200), ("sse", 200), ("rest", 502), ("sse", 502)])
async def test_a_compressed_response_is_one_line(name: str, status: int, encoding: str) -> None:
    body = native.to_json(Answer.from_events(ANSWER))
    peer = replies(status, COMPRESS[encoding](body), content_encoding=encoding)
    async with upstream(peer) as far, connect(name, far.url) as client:
        with pytest.raises(LabkitError, match=f"{encoding}-encoded, .*: turn compression off") as told:
            await client.record(ask(COUNT))
        assert far.posts[0].headers["accept-encoding"] == "identity"
    assert "\n" not in str(told.value)


async def test_an_empty_content_encoding_is_none() -> None:
    peer = replies(200, native.to_json(Answer.from_events(ANSWER)), content_encoding="")
    async with upstream(peer) as far, connect("rest", far.url) as client:
        assert_whole(await client.record(ask(COUNT)), COUNT)


async def test_an_answer_over_the_limit_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("labkit.web.http.MAX_ANSWER", 100)
    async with upstream(replies(200, b" " * 101)) as far, connect("rest", far.url) as client:
        with pytest.raises(LabkitError, match="the answer is over 100 bytes"):
            await client.record(ask(COUNT))


async def test_an_address_may_end_in_slashes(interface: str) -> None:
    with thread_server(interface, Watched(interval_ms=0)) as server:
        for url in (f"{server.url}/", f"{server.url}//"):
            async with connect(interface, url) as client:
                assert_whole(await client.record(ask(COUNT)), COUNT)
                await client.drain(url, ask(COUNT), 1)
