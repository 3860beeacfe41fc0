"""What a careless or hostile peer does to a gRPC server: it is refused in one line, and others go on."""

import asyncio
import logging
import socket
import struct
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any

import grpc
import psutil
import pytest
from grpc import aio
from support import PATIENCE_S, Watched, ask, connect, settled, thread_server, until

import labkit
from labkit.launch.threaded import ThreadServer
from labkit.net import grpc_calls
from labkit.wire.proto import inference_pb2 as pb
from servers import grpc as server_file

GENERATE = "/inference.InferenceService/Generate"
CHECK = "/grpc.health.v1.Health/Check"
WATCH = "/grpc.health.v1.Health/Watch"
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, SETTINGS, WINDOW_UPDATE = 0, 1, 4, 8
INITIAL_WINDOW_SIZE = 4
END_STREAM, ACK, END_HEADERS = 1, 1, 4
LONG = pb.GenerateRequest(prompt="x", max_tokens=60_000).SerializeToString()
SMALL_WINDOW = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 16 * 1024)]
Call = Any


@pytest.fixture
def engine() -> Watched:
    return Watched(tokens=60_000, interval_ms=0)


@pytest.fixture
def server(engine: Watched) -> Iterator[ThreadServer]:
    with thread_server("grpc", engine) as running:
        yield running


@pytest.fixture(autouse=True)
def nothing_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fails a test after which a server has logged a traceback."""
    yield
    records = [record for when in ("setup", "call") for record in caplog.get_records(when)]
    assert [record.getMessage() for record in records if record.exc_info] == []


def channel_to(server: ThreadServer, *options: tuple[str, Any]) -> aio.Channel:
    alone = [("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]
    return aio.insecure_channel(f"127.0.0.1:{server.port}", [*alone, *options])


@pytest.fixture
async def channel(server: ThreadServer) -> AsyncIterator[aio.Channel]:
    async with channel_to(server) as connected:
        yield connected


def send(channel: aio.Channel, method: str, *messages: bytes, **options: Any) -> Call:
    """Call a method with these bytes, which need not be its messages."""
    called: Call = channel.stream_stream(method)
    return called(iter(messages), **options)


async def drained(call: Call) -> None:
    while await call.read() is not aio.EOF:
        pass


async def ended(call: Call) -> aio.AioRpcError:
    """The error that a call ends with."""
    with pytest.raises(aio.AioRpcError) as error:
        await asyncio.wait_for(drained(call), PATIENCE_S)
    return error.value


async def generated(channel: aio.Channel, tokens: int = 2) -> int:
    """Ask for an answer and count its messages."""
    call: Call = channel.unary_stream(GENERATE, request_serializer=pb.GenerateRequest.SerializeToString)
    return len([reply async for reply in call(pb.GenerateRequest(prompt="x", max_tokens=tokens))])


@pytest.mark.parametrize("method", [GENERATE, CHECK, WATCH, REFLECTION])
@pytest.mark.parametrize("data", [b"\xff\xff\xff\xff", b"\x0a\x02\xff\xfe"], ids=["no fields", "no UTF-8"])
async def test_bytes_that_are_no_message_are_an_invalid_argument(
    channel: aio.Channel, engine: Watched, method: str, data: bytes
) -> None:
    if method == REFLECTION and data.startswith(b"\x0a"):
        data = b"\x1a" + data[1:]  # there the first text is field 3
    error = await ended(send(channel, method, data))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "no message of this method" in (error.details() or "") and "class" not in (error.details() or "")
    assert not engine.streams
    assert await generated(channel) == 4


@pytest.mark.parametrize("method", [GENERATE, CHECK])
async def test_call_without_a_message_is_an_invalid_argument(channel: aio.Channel, method: str) -> None:
    error = await ended(send(channel, method))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("method", [GENERATE, CHECK, REFLECTION])
async def test_call_whose_message_does_not_come_ends(
    channel: aio.Channel, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grpc_calls, "READ_S", 0.1)
    call: Call = channel.stream_stream(method)()
    assert (await ended(call)).code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert await generated(channel) == 4


async def test_method_that_raises_is_one_line(
    server: ThreadServer, channel: aio.Channel, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("by the test")

    server.service.generate = broken  # type: ignore[method-assign, assignment]
    error = await ended(send(channel, GENERATE, LONG))
    assert error.code() is grpc.StatusCode.INTERNAL and "RuntimeError" not in (error.details() or "")
    (line,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert line.startswith(GENERATE) and "by the test" in line and "\n" not in line


async def test_method_that_a_standard_service_lacks_is_unimplemented(channel: aio.Channel) -> None:
    error = await ended(send(channel, "/grpc.health.v1.Health/List", b""))
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("size", [16_500, 17 * 1024, 100_000])
async def test_metadata_over_the_limit_is_refused_each_time(channel: aio.Channel, size: int) -> None:
    for _ in range(8):
        call = send(channel, GENERATE, LONG, metadata=(("x-large", "a" * size),))
        assert (await ended(call)).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert await generated(channel) == 4


async def test_clients_that_vanish_leave_no_traceback(server: ThreadServer, engine: Watched) -> None:
    engine.interval_ms = 1
    for _ in range(5):
        async with channel_to(server) as channel:
            calls = [send(channel, GENERATE, LONG) for _ in range(20)]
            await asyncio.gather(*(call.read() for call in calls[:10]))  # ten have not begun, and all are cut
    await until(lambda: server.service.open_streams == 0, "the streams are forgotten")
    assert not any(stream.wanted for stream in engine.streams)


async def test_reader_that_takes_nothing_gives_its_place_back(
    server: ThreadServer, engine: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_file, "WRITE_S", 0.2)
    async with channel_to(server, *SMALL_WINDOW) as channel:
        call = send(channel, GENERATE, LONG)
        await call.read()
        await until(lambda: server.service.open_streams == 0, "the place is free")
        assert await settled(lambda: engine.streams[0].produced) < 20_000
        error = await ended(call)
    assert dict(error.trailing_metadata() or ())["labkit-code"] == "connection_lost"
    assert "took nothing" in (error.details() or "")


@pytest.mark.parametrize("flush", ["token", "tokens:64"])
async def test_server_runs_ahead_of_a_client_by_some_thousand_tokens(engine: Watched, flush: str) -> None:
    with thread_server("grpc", engine, flush=flush) as server:
        async with connect("grpc", server) as client, aclosing(client.chunks(ask(60_000))) as chunks:
            await anext(chunks)
            assert await settled(lambda: engine.streams[0].produced) <= 5_000


async def test_only_one_write_that_waits_from_look_to_look_is_too_slow() -> None:
    async def slow() -> server_file.WriteLimit:
        limit = server_file.WriteLimit()
        for id in range(5):
            limit.writing = id
            limit._look()
        limit.writing = None  # it waits for the engine
        limit._look()
        limit._look()
        limit.end()
        return limit

    async def stalled() -> None:
        limit = server_file.WriteLimit()
        limit.writing = 1
        limit._look()
        limit._look()
        await asyncio.sleep(PATIENCE_S)

    assert not (await slow()).lost
    task = asyncio.create_task(stalled())
    with pytest.raises(asyncio.CancelledError):
        await task


def frame(kind: int, flags: int, stream: int, body: bytes = b"") -> bytes:
    """A frame of HTTP/2 (RFC 9113, 4.1)."""
    return struct.pack(">I", len(body))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + body


def call(method: str, message: bytes) -> bytes:
    """The frames of a call with one message, on stream 1."""
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": method,
        ":authority": "localhost",
        "content-type": "application/grpc",
        "te": "trailers",
    }
    head = frame(HEADERS, END_HEADERS, 1, b"".join(field(*item) for item in fields.items()))
    return head + frame(DATA, END_STREAM, 1, b"\0" + struct.pack(">I", len(message)) + message)


PARTS = {
    "nothing": b"",
    "preface": PREFACE,
    "settings": PREFACE + frame(SETTINGS, 0, 0),
    "partial frame": PREFACE + frame(SETTINGS, 0, 0) + frame(HEADERS, END_HEADERS, 1, b"x" * 40)[:20],
    "open headers": PREFACE + frame(SETTINGS, 0, 0) + frame(HEADERS, 0, 1, b"\x83"),
}


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes servers lose patience with a connection in a fraction of a second instead of ten."""
    waits = [(name, 300 if name.endswith("_ms") else value) for name, value in server_file.OPTIONS]
    monkeypatch.setattr(server_file, "OPTIONS", waits)


@pytest.mark.parametrize("part", PARTS)
def test_silent_connection_is_closed(part: str, hasty: None) -> None:
    with (
        thread_server("grpc", "scripted") as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S / 4) as sock,
    ):
        sock.sendall(PARTS[part])
        while sock.recv(4096):
            pass


def field(name: str, value: str) -> bytes:
    """A header as a literal that is not indexed (RFC 7541, 6.2.2)."""
    return b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()


async def test_watcher_that_takes_nothing_keeps_neither_others_nor_a_stop_waiting(
    server: ThreadServer, channel: aio.Channel
) -> None:
    no_window = frame(SETTINGS, 0, 0, struct.pack(">HI", INITIAL_WINDOW_SIZE, 0))
    with socket.create_connection(("127.0.0.1", server.port)) as sock:
        sock.sendall(PREFACE + no_window + frame(SETTINGS, ACK, 0) + call(WATCH, b""))
        await generated(channel)  # the server has read the other connection's call meanwhile
        watch = send(channel, WATCH, b"")
        assert await asyncio.wait_for(watch.read(), PATIENCE_S / 4) == b"\x08\x01", "serving"
        began = time.monotonic()
        await asyncio.to_thread(server.stop)
        assert time.monotonic() - began < 0.5


async def test_peer_that_answers_no_ping_is_dropped(engine: Watched, hasty: None) -> None:
    """So is a process that stands still, whose kernel still takes bytes for it."""
    engine.interval_ms = 5
    with thread_server("grpc", engine) as server:
        with socket.create_connection(("127.0.0.1", server.port)) as sock:
            sock.sendall(PREFACE + frame(SETTINGS, 0, 0) + frame(SETTINGS, ACK, 0) + call(GENERATE, LONG))
            await until(lambda: server.service.open_streams == 1, "the call has begun")
            await until(lambda: server.service.open_streams == 0, "the call is dropped", PATIENCE_S / 4)
        assert not engine.streams[0].wanted


async def test_connections_without_end_leave_the_others_alone() -> None:
    with thread_server("grpc", "scripted", max_streams=1) as server:
        async with channel_to(server) as channel:
            assert await generated(channel) == 4
            before = psutil.Process().num_fds()
            socks = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(300)]
            accepted = await settled(psutil.Process().num_fds) - before - len(socks)
            assert accepted <= 257, "the server takes no more than its share of descriptors"
            assert await generated(channel) == 4
            for sock in socks:
                sock.close()


def test_page_of_a_browser_reads_nothing(server: ThreadServer, engine: Watched) -> None:
    """Browsers speak HTTP/2 over TLS alone, so a page can send no call, whatever its name leads to."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S) as sock:
        sock.sendall(f"POST {GENERATE} HTTP/1.1\r\nHost: example.com\r\nContent-Length: 0\r\n\r\n".encode())
        assert not sock.recv(4096).startswith(b"HTTP/1.1 2")
    assert not engine.streams


def test_flood_from_one_connection_takes_little_memory() -> None:
    blob = frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 1)) * 5_000
    with labkit.serve("grpc", "scripted", isolation="process") as server:
        process = psutil.Process(getattr(server, "pid", None))
        before = peak = process.memory_info().rss
        with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S) as sock:
            sock.sendall(PREFACE + frame(SETTINGS, 0, 0))
            end = time.monotonic() + 3.0
            while time.monotonic() < end:
                sock.sendall(blob)
                peak = max(peak, process.memory_info().rss)
        assert peak - before <= 16 * 2**20
