"""How a connection ends that breaks rules or leaves in the middle: refused, closed, no line in the log."""

import asyncio
import logging
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress

import pytest
from raw_client import CHUNKED, GET, UPGRADE, connections, dial, post
from support import PATIENCE_S, Watched, http_borne, thread_server, until
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode

from labkit.web import patience
from labkit.web.guard import MAX_BODY
from labkit.web.listener import LINGER
from labkit.web.sockets import MOST_FRAGMENTS

POST = post(b'{"prompt":"x","max_tokens":60000}')


@pytest.fixture
def logged() -> Iterator[list[str]]:
    """What uvicorn and asyncio log meanwhile."""
    lines: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    keep, loggers = Keep(logging.WARNING), [logging.getLogger(name) for name in ("uvicorn.error", "asyncio")]
    for logger in loggers:
        logger.addHandler(keep)
    yield lines
    for logger in loggers:
        logger.removeHandler(keep)


WRONG = {
    "not UTF-8": ([Frame(Opcode.TEXT, b"\xff")], 1007),
    "not UTF-8, twice": ([Frame(Opcode.TEXT, b"\xff"), Frame(Opcode.TEXT, b"\xfe")], 1007),
    "not UTF-8 in fragments": ([Frame(Opcode.TEXT, b"a", False), Frame(Opcode.CONT, b"\xff", True)], 1007),
    "too long": ([Frame(Opcode.TEXT, b"x" * (MAX_BODY + 1))], 1009),
    "too many fragments": (
        [Frame(Opcode.TEXT, b"", False), *[Frame(Opcode.CONT, b"", False)] * (MOST_FRAGMENTS + 1)],
        1009,
    ),
}


@pytest.mark.parametrize(("frames", "code"), WRONG.values(), ids=WRONG)
async def test_wrong_frames_close_the_socket_with_their_code(
    logged: list[str], frames: list[Frame], code: int
) -> None:
    with thread_server("websocket", Watched()) as server:
        async with connect(f"{server.url}/ws/me", proxy=None) as connection:
            connection.transport.write(b"".join(frame.serialize(mask=True) for frame in frames))
            with pytest.raises(ConnectionClosed) as closed:
                await asyncio.wait_for(connection.recv(), PATIENCE_S)
            assert closed.value.rcvd is not None and closed.value.rcvd.code == code
        async with connect(f"{server.url}/ws/me", proxy=None) as connection:
            await asyncio.wait_for(await connection.ping(), PATIENCE_S)
    assert not logged


@pytest.mark.parametrize("reset", [False, True], ids=["closes", "resets"])
@pytest.mark.parametrize("interface", http_borne())
async def test_client_that_leaves_while_it_pipelines(
    logged: list[str], interface: str, reset: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "EVERY_S", 0.1)
    engine = Watched(tokens=60_000, interval_ms=1)
    with thread_server(interface, engine) as server:
        for requests in (POST + GET * 20, GET * 20 + POST * 5, GET * 100, POST + UPGRADE):
            client = dial(server)
            client.sendall(requests)
            await asyncio.sleep(0.05)
            if reset:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
            await until(lambda: not connections(server), "the connection is forgotten")
        await until(lambda: server.service.open_streams == 0, "nobody is left to answer")
        assert all(not stream.wanted for stream in engine.streams)
    assert not logged


@pytest.mark.parametrize("target", [b"POST /generate", b"POST /nothing", b"GET /health"])
@pytest.mark.parametrize("interface", http_borne())
async def test_body_without_end_is_refused_and_not_read_on(
    logged: list[str], interface: str, target: bytes
) -> None:
    with thread_server(interface, Watched()) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(target + CHUNKED)
        sent = 0
        with suppress(ConnectionError):
            while sent < 150 * 2**20:
                writer.write(b"10000\r\n" + b" " * 65_536 + b"\r\n")
                await asyncio.wait_for(writer.drain(), PATIENCE_S)
                sent += 65_536
        assert sent < 32 * 2**20
        status = None
        with suppress(ConnectionError):  # the reset may overtake the answer
            status = (await reader.read(64)).split()[1]
        assert status in (None, b"413", b"404", b"405", b"200")
        writer.transport.abort()
    assert not logged


async def test_what_frames_the_chunks_of_a_refused_body_counts_too() -> None:
    with thread_server("rest", Watched()) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        over = b" " * (MAX_BODY + 1)
        writer.write(b"POST /generate" + CHUNKED + b"%x\r\n" % len(over) + over + b"\r\n")
        await asyncio.wait_for(reader.readuntil(b"}}"), PATIENCE_S)
        chunk, sent = b"1;" + b"x" * 4096 + b"\r\n \r\n", 0
        with suppress(ConnectionError):
            while sent < 32 * 2**20:
                writer.write(chunk)
                await asyncio.wait_for(writer.drain(), PATIENCE_S)
                sent += len(chunk)
        assert sent < 16 * 2**20
        writer.transport.abort()


@pytest.mark.parametrize("interface", ["rest", "sse"])
async def test_body_over_the_limit_is_told_before_the_connection_closes(interface: str) -> None:
    with thread_server(interface, Watched()) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(
            b"POST /generate" + CHUNKED + b"%x\r\n" % (MAX_BODY + 1) + b" " * (MAX_BODY + 1) + b"\r\n"
        )
        answer = await asyncio.wait_for(reader.readuntil(b"}}"), PATIENCE_S)
        assert answer.startswith(b"HTTP/1.1 413 ") and b'"too_large"' in answer
        writer.write(b"%x\r\n" % LINGER + b" " * LINGER)
        with suppress(ConnectionError):
            assert await asyncio.wait_for(reader.read(), PATIENCE_S) == b""
        writer.close()
