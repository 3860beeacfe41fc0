"""Clients that keep an HTTP-borne server waiting are ended, and leave room for those who do not."""

import asyncio
import json
import sys
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx
import pytest
from support import PATIENCE_S, Watched, ask, assert_whole, connect, http_borne, thread_server, until
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as dial
from websockets.exceptions import InvalidStatus

from labkit.launch.threaded import ThreadServer
from labkit.web import deadlines
from labkit.web.crowd import Crowd

SHORT_S = 0.3
HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture(params=http_borne())
def server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadServer]:
    """A server of each kind that waits for its clients for a third of a second."""
    monkeypatch.setattr(deadlines, "PATIENCE_S", SHORT_S)
    with thread_server(request.param, Watched(interval_ms=0)) as running:
        yield running


@asynccontextmanager
async def plugged(server: ThreadServer) -> AsyncIterator[tuple[StreamReader, StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def rest_of(reader: StreamReader) -> bytes:
    """All that comes until the server closes."""
    with suppress(ConnectionError):
        return await asyncio.wait_for(reader.read(-1), PATIENCE_S)
    return b""


async def trickle(writer: StreamWriter, data: bytes) -> None:
    """Send byte after byte, each in time if it were for that alone, until the server closes."""
    with suppress(ConnectionError):
        for byte in data * 1000:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(SHORT_S / 5)


def assert_timed_out(answer: bytes) -> None:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 Request Timeout") and b"connection: close" in head
    assert json.loads(body)["error"]["code"] == "invalid_request"


async def assert_serves(server: ThreadServer) -> None:
    url = f"http://127.0.0.1:{server.port}"
    async with httpx.AsyncClient(base_url=url, trust_env=False, verify=False, timeout=PATIENCE_S) as client:
        assert (await client.get("/health")).json()["open_streams"] == 0


async def test_a_silent_connection_is_closed(server: ThreadServer) -> None:
    async with plugged(server) as (reader, _):
        assert await rest_of(reader) == b""
    await assert_serves(server)


BEGINNINGS = {
    "method": b"PO",
    "headers": b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-",
    "body": b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b'Content-Length: 90\r\n\r\n{"prompt": ',
    "chunks": b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n5\r\n",
    "upgrade": b"GET /ws/me HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n",
}


@pytest.mark.parametrize("beginning", BEGINNINGS.values(), ids=BEGINNINGS.keys())
async def test_a_request_that_does_not_go_on_is_timed_out(server: ThreadServer, beginning: bytes) -> None:
    async with plugged(server) as (reader, writer):
        writer.write(beginning)
        answer = await rest_of(reader)
        if b" 404 " not in answer:  # the WebSocket server refuses a POST before its body has come
            assert_timed_out(answer)
    await assert_serves(server)


@pytest.mark.parametrize("beginning", [b"GET /health HTTP/1.1\r\nX-Slow: ", BEGINNINGS["body"]])
async def test_byte_after_byte_gains_no_time(server: ThreadServer, beginning: bytes) -> None:
    async with plugged(server) as (reader, writer):
        writer.write(beginning)
        slow = asyncio.create_task(trickle(writer, b"x"))
        answer = await rest_of(reader)
        slow.cancel()
        assert answer == b"" or b" 404 " in answer or answer.startswith(b"HTTP/1.1 408 ")
    await assert_serves(server)


@pytest.mark.parametrize("then", [b"", b"GE", b"\r\n"], ids=["nothing", "half a request", "line breaks"])
async def test_a_connection_that_stays_open_after_an_answer_is_closed(
    server: ThreadServer, then: bytes
) -> None:
    async with plugged(server) as (reader, writer):
        writer.write(HEALTH)
        await reader.readuntil(b"\r\n\r\n")
        slow = asyncio.create_task(trickle(writer, then))
        await rest_of(reader)
        slow.cancel()
    await assert_serves(server)


async def test_an_answer_may_take_longer(server: ThreadServer) -> None:
    engine = server.service.engine
    assert isinstance(engine, Watched)
    engine.interval_ms = 1000 * SHORT_S / 2
    async with connect(server.name, server) as client:
        assert_whole(await client.record(ask(6)), 6)


async def test_a_request_behind_a_long_answer_does_not_cut_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deadlines, "PATIENCE_S", SHORT_S)
    with thread_server("sse", Watched(interval_ms=1000 * SHORT_S / 2)) as server:
        async with plugged(server) as (reader, writer):
            writer.write(HEALTH.replace(b"/health", b"/generate?prompt=x&max_tokens=6") + b"GET /hea")
            answer = await rest_of(reader)
    assert answer.count(b"event: token") == 6 and b"event: finished" in answer


async def test_an_idle_socket_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deadlines, "PATIENCE_S", SHORT_S)
    with thread_server("websocket", Watched(interval_ms=0)) as server:
        async with connect("websocket", server) as client:
            assert_whole(await client.record(ask(3)), 3)
            assert isinstance(socket := getattr(client, "_socket"), ClientConnection)  # noqa: B009
            await asyncio.sleep(2 * SHORT_S)
            assert_whole(await client.record(ask(3)), 3)
            assert getattr(client, "_socket") is socket  # noqa: B009


@pytest.fixture(params=http_borne())
def crowded(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadServer]:
    """A server of each kind that holds eight connections at most."""
    monkeypatch.setattr(deadlines, "CROWD", Crowd(limit=8))
    with thread_server(request.param, Watched(interval_ms=0)) as running:
        yield running


async def test_silent_connections_leave_room_for_the_healthy(crowded: ThreadServer) -> None:
    silent = [await asyncio.open_connection("127.0.0.1", crowded.port) for _ in range(30)]
    await assert_serves(crowded)
    ended = [asyncio.create_task(rest_of(reader)) for reader, _ in silent]
    await until(lambda: sum(task.done() for task in ended) >= 22, "the oldest are gone")
    assert not any(task.done() for task in ended[-6:]), "the youngest wait on"
    for _, writer in silent:
        writer.transport.abort()
    await asyncio.gather(*ended)


async def test_silent_connections_do_not_end_a_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deadlines, "CROWD", Crowd(limit=8))
    with thread_server("sse", Watched(interval_ms=20)) as server:
        async with connect("sse", server) as client:
            task = asyncio.create_task(client.record(ask(20)))
            await until(lambda: server.service.open_streams == 1, "it has begun")
            silent = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(30)]
            assert_whole(await task, 20)
        for _, writer in silent:
            writer.transport.abort()


async def test_sockets_leave_room_for_the_healthy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deadlines, "CROWD", Crowd(limit=8))
    with thread_server("websocket", Watched(interval_ms=0)) as server:
        sockets = [await dial(f"{server.url}/ws/me", proxy=None) for _ in range(4)]
        with pytest.raises(InvalidStatus) as refused:
            await dial(f"{server.url}/ws/me", proxy=None)
        assert refused.value.response.status_code == 503
        await assert_serves(server)
        await sockets[0].close()
        await (await dial(f"{server.url}/ws/me", proxy=None)).close()
        for socket in sockets:
            await socket.close()


PROGRAM = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (160, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
import labkit
server = labkit.serve(sys.argv[1], "scripted")
print(server.port, flush=True)
sys.stdin.read()
server.stop()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit on descriptors")
@pytest.mark.parametrize("interface", http_borne())
async def test_more_silent_connections_than_descriptors(interface: str) -> None:
    pipe: dict[str, Any] = {"stdin": asyncio.subprocess.PIPE, "stdout": asyncio.subprocess.PIPE}
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", PROGRAM, interface, **pipe)
    assert child.stdin is not None and child.stdout is not None
    port = int(await child.stdout.readline())
    silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(200)]
    url = f"http://127.0.0.1:{port}"
    async with httpx.AsyncClient(base_url=url, trust_env=False, verify=False, timeout=PATIENCE_S) as client:
        assert (await client.get("/health")).status_code == 200
    for _, writer in silent:
        writer.transport.abort()
    child.stdin.close()
    await child.wait()
