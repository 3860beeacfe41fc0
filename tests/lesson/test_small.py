"""A chapter's own small servers: they answer, one takes the place of another, and nothing of them stays."""

import asyncio
import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import grpc
import httpx
import pytest
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from support import PATIENCE_S, until

import labkit
from labkit.lesson import Messages, Writer, in_background, silent_reader
from labkit.wire.proto import inference_pb2 as pb


def app(writer: Writer) -> FastAPI:
    small = FastAPI()

    @small.get("/generate")
    async def generate(max_tokens: int) -> StreamingResponse:
        return StreamingResponse(f"data: {word}\n\n" async for word in writer.words(max_tokens))

    return small


def answer(writer: Writer) -> Any:
    async def answers(socket: Any) -> None:
        async for message in socket:
            async for word in writer.words(json.loads(message)["max_tokens"]):
                await socket.send(json.dumps({"type": "token", "text": word}))

    return answers


def grpc_server(writer: Writer) -> grpc.Server:
    def generate(request: pb.GenerateRequest, _: Any) -> Any:
        for _number in range(request.max_tokens):
            yield pb.GenerateReply(events=[pb.Event(token=pb.Token(text="la "))])

    method = grpc.unary_stream_rpc_method_handler(
        generate,
        request_deserializer=pb.GenerateRequest.FromString,
        response_serializer=pb.GenerateReply.SerializeToString,
    )
    service = grpc.method_handlers_generic_handler("inference.InferenceService", {"Generate": method})
    return grpc.server(ThreadPoolExecutor(2), [service])


def over_http(url: str) -> int:
    return httpx.get(f"{url}/generate?max_tokens=3").text.count("data: ")


def over_websocket(url: str) -> int:
    line = Messages(url)
    line.send({"max_tokens": 3})
    try:
        return len(line.receive(3))
    finally:
        line.close()


def over_grpc(url: str) -> int:
    with grpc.insecure_channel(url.removeprefix("grpc://")) as channel:
        generate = channel.unary_stream(
            "/inference.InferenceService/Generate",
            request_serializer=pb.GenerateRequest.SerializeToString,
            response_deserializer=pb.GenerateReply.FromString,
        )
        return len(list(generate(pb.GenerateRequest(max_tokens=3))))


KINDS = {"http": (app, over_http), "websocket": (answer, over_websocket), "grpc": (grpc_server, over_grpc)}


def listens(url: str) -> bool:
    parts = urlsplit(url)
    with socket.socket() as sock:
        return sock.connect_ex((str(parts.hostname), int(parts.port or 0))) == 0


@pytest.mark.parametrize("kind", KINDS)
async def test_a_cell_that_runs_again_leaves_no_port_and_no_thread(kind: str) -> None:
    make, ask = KINDS[kind]
    threads = threading.active_count()
    urls = []
    for _ in range(3):
        small = in_background(make(Writer(interval_ms=0)))
        urls.append(small.url)
        assert await asyncio.to_thread(ask, small.url) == 3
    assert [listens(url) for url in urls] == [False, False, True]
    labkit.stop_all()
    assert not listens(urls[-1])
    # One thread is this test's, for asking.
    await until(lambda: threading.active_count() <= threads + 1, "its threads end")


@pytest.mark.parametrize("kind", KINDS)
async def test_a_small_server_stops_while_it_answers(kind: str) -> None:
    make, ask = KINDS[kind]
    small = in_background(make(Writer(interval_ms=200)))
    asking = asyncio.get_running_loop().run_in_executor(None, ask, small.url)
    await asyncio.sleep(0.1)
    small.stop()
    assert not listens(small.url)
    await asyncio.wait([asking], timeout=PATIENCE_S)
    assert asking.done()
    asking.exception()


async def test_a_writer_counts_its_words_for_both_kinds_of_server() -> None:
    writer = Writer(interval_ms=0)
    assert [word async for word in writer.words(2)] == ["the ", "quick "]
    with labkit.serve("sse", writer) as server:
        recording = await asyncio.to_thread(server.ask, labkit.GenerateRequest(prompt="x", max_tokens=5))
    assert recording.text == "the quick brown fox jumps "
    assert writer.written == 7


async def test_a_silent_reader_asks_and_reads_nothing() -> None:
    writer = Writer(interval_ms=0)
    small = in_background(app(writer))
    with silent_reader(f"{small.url}/generate?max_tokens=50"):
        await until(lambda: writer.written == 50, "all is written")
    small.stop()
