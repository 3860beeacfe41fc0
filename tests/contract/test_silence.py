"""Clients that leave at any moment, in any way: no server says a word, and every answer is closed."""

import asyncio
import gc
import json
import random
from contextlib import AsyncExitStack, suppress

import pytest
from starlette.types import Message
from starlette.websockets import WebSocket
from support import Watched, abandoned, ask, assert_whole, cable, connect, thread_server, until
from websockets.asyncio.client import connect as dial

from labkit.client import Client
from labkit.errors import LabkitError
from labkit.launch.threaded import ThreadServer

AT_ONCE = 6
ANSWER_MS = 8
ROUNDS = {"cancel": 40, "close": 40, "cut": 40, "stop": 5}


async def hurried(client: Client, request_id: str, seconds: float) -> None:
    """Ask for an answer of some milliseconds, and leave after `seconds` if it has not ended by then."""
    asking = asyncio.create_task(client.record(ask(ANSWER_MS, request_id=request_id)))
    await asyncio.sleep(seconds)
    with suppress(LabkitError):
        await abandoned(asking)


async def round_of(way: str, interface: str, server: ThreadServer, chance: random.Random) -> None:
    """Some answers on one client, each left at a moment of its own; meanwhile `way` happens to all."""
    async with AsyncExitStack() as stack:
        laid = await stack.enter_async_context(cable(server.url)) if way == "cut" else None
        client = await stack.enter_async_context(connect(interface, laid.url if laid else server))
        moments = [chance.uniform(0, 2 * ANSWER_MS / 1e3) for _ in range(AT_ONCE)]
        asking = [asyncio.create_task(hurried(client, f"r{n}", moment)) for n, moment in enumerate(moments)]
        await asyncio.sleep(0 if way == "cancel" else chance.uniform(0, ANSWER_MS / 1e3))
        if way == "close":
            await client.aclose()
        elif laid:
            laid.cut()
        elif way == "stop":
            await asyncio.to_thread(server.stop)
            server.port = 0  # gRPC's clients wait before they try a port again that has refused them
            server.start()
        await asyncio.gather(*asking)


@pytest.mark.parametrize("way", ROUNDS)
async def test_leaving_at_any_moment_is_silent(
    interface: str, way: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    chance = random.Random(way)
    engine = Watched(interval_ms=1)
    with thread_server(interface, engine) as server:
        for _ in range(ROUNDS[way]):
            await round_of(way, interface, server, chance)
        await until(lambda: server.service.open_streams == 0, "every answer is closed")
        assert all(not stream.wanted for stream in engine.streams)
        async with connect(interface, server) as client:
            assert_whole(await client.record(ask(3)), 3)
    assert [record.getMessage() for record in caplog.records] == []
    assert capfd.readouterr().err == ""


async def test_an_id_can_be_asked_again_at_once(interface: str) -> None:
    """The client keeps what still comes of the answer that was left away from the new one."""
    chance = random.Random(interface)
    with thread_server(interface, Watched(tokens=60_000, interval_ms=1)) as server:
        async with connect(interface, server) as client:
            for _ in range(40):
                await hurried(client, "same", chance.uniform(0, ANSWER_MS / 1e3))
                assert_whole(await client.record(ask(3, request_id="same")), 3)


@pytest.mark.parametrize("kind", ["generate", "cancel", "sing"])
async def test_a_socket_that_is_closing_gets_no_answer_and_no_complaint(
    kind: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A message is read, and its answer is written to a socket that has been closed in the same turn."""

    async def too_late(socket: WebSocket, message: Message) -> None:
        if message["type"] == "websocket.send":
            raise RuntimeError("unable to perform operation on <TCPTransport>; the handler is closed")
        await send(socket, message)

    send = WebSocket.send
    monkeypatch.setattr(WebSocket, "send", too_late)
    with thread_server("websocket", Watched(interval_ms=1)) as server:
        async with dial(f"{server.url}/ws/me", proxy=None) as connection:
            await connection.send(json.dumps({"type": "generate", "request_id": "a", "prompt": "x"}))
            await connection.send(json.dumps({"type": kind, "request_id": "a"}))
            await until(lambda: server.service.open_streams == 0, "the answer is closed")
    gc.collect()  # asyncio tells of a task whose error nobody has taken when it collects the task
    assert [record.getMessage() for record in caplog.records] == []
