"""How the WebSocket server handles messages that are wrong, many at once, or from a foreign page."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import pytest
from support import PATIENCE_S, Watched, script, thread_server, until
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as dial
from websockets.exceptions import ConnectionClosed, InvalidStatus

from labkit.launch.threaded import ThreadServer
from labkit.web.guard import MAX_BODY

Frames = list[dict[str, Any]]


@pytest.fixture
def engine() -> Watched:
    return Watched(tokens=60_000, interval_ms=0)


@pytest.fixture
def server(engine: Watched) -> Iterator[ThreadServer]:
    with thread_server("websocket", engine) as running:
        yield running


@asynccontextmanager
async def socket(
    server: ThreadServer, client_id: str = "me", **options: Any
) -> AsyncIterator[ClientConnection]:
    async with dial(f"{server.url}/ws/{client_id}", proxy=None, **options) as connection:
        yield connection


async def say(connection: ClientConnection, **fields: Any) -> None:
    await connection.send(json.dumps(fields))


async def hear(connection: ClientConnection) -> dict[str, Any]:
    frame = await asyncio.wait_for(connection.recv(), PATIENCE_S)
    assert isinstance(frame, str)

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    message: dict[str, Any] = json.loads(frame, parse_constant=refuse)
    return message


async def hear_out(connection: ClientConnection, answers: int = 1) -> Frames:
    """All frames up to `answers` terminal events."""
    frames: Frames = []
    while sum(frame["type"] in ("finished", "failed") for frame in frames) < answers:
        frames.append(await hear(connection))
    return frames


def assert_answer(frames: Frames, request_id: str, count: int) -> None:
    """The frames of that request are the whole answer, in order."""
    mine = [frame for frame in frames if frame["request_id"] == request_id]
    assert [frame["id"] for frame in mine] == list(range(count + 2))
    assert [frame["text"] for frame in mine[1:-1]] == script(count)
    assert (mine[-1]["type"], mine[-1]["pieces"]) == ("finished", count)


async def assert_open(connection: ClientConnection) -> None:
    await say(connection, type="generate", request_id="check", prompt="x", max_tokens=3)
    assert_answer(await hear_out(connection), "check", 3)


WRONG: dict[str, str | bytes] = {
    "no JSON": "hello",
    "binary": b'{"type":"generate","prompt":"x"}',
    "list": "[]",
    "number": "1",
    "null": "null",
    "no type": "{}",
    "unknown type": '{"type":"dance"}',
    "type is a list": '{"type":["generate"]}',
    "deep": '{"type":' + "[" * 60_000 + "]" * 60_000 + "}",
    "long integer": '{"type":"generate","prompt":"x","seed":' + "9" * 5_000 + "}",
    "lone surrogate": '{"type":"generate","prompt":"\\ud800"}',
    "no prompt": '{"type":"generate"}',
    "NaN": '{"type":"generate","prompt":"x","temperature":NaN}',
    "number as text": '{"type":"generate","prompt":"x","max_tokens":"3"}',
    "number for a truth": '{"type":"generate","prompt":"x","stamps":0}',
    "out of range": '{"type":"generate","prompt":"x","max_tokens":0}',
    "unknown field": '{"type":"generate","prompt":"x","colour":"red"}',
    "bad request id": '{"type":"generate","prompt":"x","request_id":"a b"}',
    "request id is a list": '{"type":"generate","prompt":"x","request_id":["a"]}',
    "request id is NaN": '{"type":"dance","request_id":NaN}',
    "deep request id": '{"type":"dance","request_id":' + "[" * 900 + "]" * 900 + "}",
    "surrogate request id": '{"type":"dance","request_id":"\\ud800"}',
    "cancel of nothing": '{"type":"cancel"}',
    "cancel of a list": '{"type":"cancel","request_id":["a"]}',
}


@pytest.mark.parametrize("message", WRONG.values(), ids=WRONG.keys())
async def test_wrong_message_is_answered_and_the_socket_stays(
    server: ThreadServer, engine: Watched, message: str | bytes
) -> None:
    async with socket(server) as connection:
        await connection.send(message)
        error = await hear(connection)
        assert set(error) == {"type", "request_id", "code", "message"}
        assert (error["type"], error["code"]) == ("error", "invalid_request")
        assert error["request_id"] is None or isinstance(error["request_id"], str)
        assert 0 < len(error["message"]) < 500
        assert not engine.streams
        await assert_open(connection)


async def test_error_names_the_request_that_it_answers(server: ThreadServer) -> None:
    async with socket(server) as connection:
        await say(connection, type="generate", request_id="mine", prompt="")
        assert (await hear(connection))["request_id"] == "mine"


async def test_flood_of_wrong_messages_is_answered_one_by_one(server: ThreadServer) -> None:
    async with socket(server) as connection:
        for _ in range(300):
            await connection.send("?")
        for _ in range(300):
            assert (await hear(connection))["type"] == "error"
        await assert_open(connection)


async def test_request_id_in_use_is_refused_and_the_first_goes_on(
    server: ThreadServer, engine: Watched
) -> None:
    engine.interval_ms = 5
    async with socket(server) as connection:
        await say(connection, type="generate", request_id="a", prompt="x", max_tokens=20)
        await say(connection, type="generate", request_id="a", prompt="y", max_tokens=20)
        frames = await hear_out(connection)
        errors = [frame for frame in frames if frame["type"] == "error"]
        assert len(errors) == 1 and "in use" in errors[0]["message"]
        assert_answer([frame for frame in frames if frame["type"] != "error"], "a", 20)
        assert len(engine.streams) == 1
        await say(connection, type="generate", request_id="a", prompt="x", max_tokens=2)
        assert_answer(await hear_out(connection), "a", 2)


async def test_cancel_ends_one_answer_and_no_other(server: ThreadServer, engine: Watched) -> None:
    engine.interval_ms = 3
    async with socket(server) as connection:
        await say(connection, type="generate", request_id="long", prompt="x", max_tokens=60_000)
        await say(connection, type="generate", request_id="short", prompt="x", max_tokens=40)
        await until(lambda: len(engine.streams) == 2 and engine.streams[0].produced > 5, "tokens come")
        await say(connection, type="cancel", request_id="long")
        frames = await hear_out(connection, answers=2)
        end = next(f for f in frames if f["request_id"] == "long" and f["type"] == "finished")
        texts = [f for f in frames if f["request_id"] == "long" and f["type"] == "token"]
        assert end["reason"] == "cancelled"
        assert (end["pieces"], end["id"]) == (len(texts), len(texts) + 1)
        assert_answer(frames, "short", 40)
        await until(lambda: server.service.open_streams == 0, "both are forgotten")


async def test_a_cancel_that_comes_late_is_passed_over(server: ThreadServer) -> None:
    async with socket(server) as connection:
        await assert_open(connection)
        for request_id in ("check", "check", "nobody"):
            await say(connection, type="cancel", request_id=request_id)
        await assert_open(connection)


async def test_an_id_is_free_again_once_its_answer_is_being_cancelled(
    server: ThreadServer, engine: Watched
) -> None:
    engine.interval_ms = 1
    async with socket(server) as connection:
        for _ in range(20):
            await say(connection, type="generate", request_id="a", prompt="x", max_tokens=60_000)
            await say(connection, type="cancel", request_id="a")
        await say(connection, type="generate", request_id="a", prompt="x", max_tokens=3)
        frames = await hear_out(connection, answers=21)
    ends = [place for place, frame in enumerate(frames) if frame["type"] == "finished"]
    assert [frames[place]["reason"] for place in ends] == ["cancelled"] * 20 + ["length"]
    assert_answer(frames[ends[-2] + 1 :], "a", 3)
    assert all(frame["id"] == 0 for place, frame in enumerate(frames) if place - 1 in [-1, *ends])


async def test_many_answers_on_one_socket_each_in_order(server: ThreadServer, engine: Watched) -> None:
    engine.interval_ms = 1
    async with socket(server) as connection:
        for index in range(20):
            await say(connection, type="generate", request_id=f"r{index}", prompt="x", max_tokens=10 + index)
        frames = await hear_out(connection, answers=20)
        for index in range(20):
            assert_answer(frames, f"r{index}", 10 + index)
        changes = sum(a["request_id"] != b["request_id"] for a, b in pairwise(frames))
        assert changes > 60, "they take turns"


async def test_too_many_answers_on_one_socket(server: ThreadServer, engine: Watched) -> None:
    engine.interval_ms = 500
    async with socket(server) as connection:
        for index in range(33):
            await say(connection, type="generate", request_id=f"r{index}", prompt="x")
        while (frame := await hear(connection))["type"] != "error":
            pass
        assert (frame["code"], frame["request_id"]) == ("overloaded", "r32")


async def test_sockets_of_one_client_id_never_cross_replies(server: ThreadServer, engine: Watched) -> None:
    engine.interval_ms = 1
    async with socket(server, "same") as one, socket(server, "same") as other:
        await say(one, type="generate", request_id="r", prompt="x", max_tokens=30)
        await say(other, type="generate", request_id="r", prompt="x", max_tokens=10)
        mine, theirs = await asyncio.gather(hear_out(one), hear_out(other))
        assert_answer(mine, "r", 30)
        assert_answer(theirs, "r", 10)
        await say(one, type="generate", request_id="s", prompt="x", max_tokens=50)
        await say(other, type="cancel", request_id="s")
        assert_answer(await hear_out(one), "s", 50)


async def test_leaving_stops_all_answers_of_the_socket(server: ThreadServer, engine: Watched) -> None:
    engine.interval_ms = 3
    async with socket(server) as staying:
        async with socket(server) as connection:
            for index in range(5):
                await say(connection, type="generate", request_id=f"r{index}", prompt="x", max_tokens=60_000)
            await say(staying, type="generate", request_id="r", prompt="x", max_tokens=50)
            await until(lambda: server.service.open_streams == 6, "six answers")
        await until(lambda: server.service.open_streams <= 1, "the five are stopped")
        assert_answer(await hear_out(staying), "r", 50)


async def test_leaving_in_the_same_write_as_the_question_leaves_nothing_open(server: ThreadServer) -> None:
    """The server reads the close frame before the answer's task has begun."""
    question = json.dumps({"type": "generate", "request_id": "a", "prompt": "x"}).encode()
    upgrade = (
        f"GET /ws/me HTTP/1.1\r\nhost: 127.0.0.1:{server.port}\r\nconnection: upgrade\r\n"
        "upgrade: websocket\r\nsec-websocket-version: 13\r\n"
        "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    mask = bytes(4)
    for _ in range(3):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(upgrade.encode())
        await reader.readuntil(b"\r\n\r\n")
        close = bytes([0x88, 0x82]) + mask + (1000).to_bytes(2, "big")
        writer.write(bytes([0x81, 0x80 | len(question)]) + mask + question + close)
        await reader.read()
        writer.close()
    await until(lambda: server.service.open_streams == 0, "nothing is open")


async def test_started_has_each_key_once(server: ThreadServer) -> None:
    async with socket(server) as connection:
        await say(connection, type="generate", request_id="a", prompt="x", max_tokens=1)
        frame = await asyncio.wait_for(connection.recv(), PATIENCE_S)
    keys = [key for key, _ in json.loads(frame, object_pairs_hook=list)]
    assert sorted(keys) == ["id", "model", "prompt_tokens", "request_id", "type"]


async def test_frame_over_the_limit_closes_with_1009(server: ThreadServer) -> None:
    async with socket(server) as connection:
        await connection.send('"' + "x" * MAX_BODY + '"')
        with pytest.raises(ConnectionClosed) as closed:
            await asyncio.wait_for(connection.recv(), PATIENCE_S)
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 1009
    async with socket(server) as connection:
        await assert_open(connection)


async def test_flood_of_fragments_closes_with_1009(server: ThreadServer) -> None:
    async def fragments() -> AsyncIterator[str]:
        while True:
            yield "x" * 16_384

    async with socket(server) as connection:
        with pytest.raises(ConnectionClosed) as closed:
            await asyncio.wait_for(connection.send(fragments()), PATIENCE_S)
        assert closed.value.rcvd is None or closed.value.rcvd.code == 1009


async def test_nothing_is_compressed(server: ThreadServer) -> None:
    """Without the extension there is no deflate bomb, and a token costs its bytes."""
    async with socket(server, compression="deflate") as connection:
        assert connection.response is not None
        assert "Sec-WebSocket-Extensions" not in connection.response.headers


async def test_engine_failure_is_a_frame(server: ThreadServer, engine: Watched) -> None:
    engine.fail_after = 5
    async with socket(server) as connection:
        await say(connection, type="generate", request_id="r", prompt="x")
        frames = await hear_out(connection)
        assert [frame["type"] for frame in frames] == ["started", *["token"] * 5, "failed"]
        assert (frames[-1]["code"], frames[-1]["id"]) == ("engine_failed", 6)
        engine.fail_after = None
        await assert_open(connection)


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1"])
async def test_foreign_page_cannot_open_a_socket(
    server: ThreadServer, origin: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with socket(server, origin=origin):
            pass
    assert refused.value.response.status_code == 403
    ours = [record for record in caplog.records if record.name.startswith("labkit")]
    assert not ours, "any page could fill the log"


async def test_foreign_page_cannot_open_a_socket_that_only_the_browser_names(server: ThreadServer) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with socket(server, additional_headers={"Sec-Fetch-Site": "same-site"}):
            pass
    assert refused.value.response.status_code == 403


async def test_foreign_host_cannot_open_a_socket(server: ThreadServer) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with dial("ws://evil.example/ws/me", proxy=None, host="127.0.0.1", port=server.port):
            pass
    assert refused.value.response.status_code == 421


async def test_own_page_opens_a_socket(server: ThreadServer) -> None:
    async with socket(server, origin=f"http://127.0.0.1:{server.port}") as connection:
        await assert_open(connection)


async def test_stopping_says_goodbye_with_1001(server: ThreadServer, engine: Watched) -> None:
    engine.interval_ms = 5
    async with socket(server) as connection:
        await say(connection, type="generate", request_id="r", prompt="x", max_tokens=60_000)
        await until(lambda: server.service.open_streams == 1, "a stream is open")
        await asyncio.to_thread(server.stop)
        frames = await hear_out(connection)
        assert (frames[-1]["type"], frames[-1]["code"]) == ("failed", "stopping")
        with pytest.raises(ConnectionClosed) as closed:
            await asyncio.wait_for(connection.recv(), PATIENCE_S)
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 1001
