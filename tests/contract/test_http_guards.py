"""What the HTTP-borne servers refuse before the engine gets it: foreign pages, floods, broken bodies."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import httpx
import psutil
import pytest
from support import PATIENCE_S, Watched, http_borne, thread_server

from labkit.errors import StartError
from labkit.launch.threaded import ThreadServer
from labkit.web.guard import MAX_BODY, MAX_HEADERS
from labkit.wire.eventstream import Parser


@pytest.fixture(scope="module", params=http_borne())
def server(request: pytest.FixtureRequest) -> Iterator[ThreadServer]:
    """One server of each kind for all tests, so that it has to survive them in a row."""
    with thread_server(request.param, Watched(interval_ms=0)) as running:
        yield running


@pytest.fixture(scope="module", params=["rest", "sse"])
def posted(request: pytest.FixtureRequest) -> Iterator[ThreadServer]:
    """Servers with `POST /generate`."""
    with thread_server(request.param, Watched(interval_ms=0)) as running:
        yield running


@pytest.fixture
def generating(posted: ThreadServer) -> ThreadServer:
    """A server that takes its requests by POST; its engine has not been asked yet."""
    assert isinstance(posted.service.engine, Watched)
    posted.service.engine.streams.clear()
    return posted


def http(server: ThreadServer) -> httpx.AsyncClient:
    url = f"http://127.0.0.1:{server.port}"
    return httpx.AsyncClient(base_url=url, trust_env=False, verify=False, timeout=10)


async def raw(server: ThreadServer, *parts: bytes, read: int = 65_536) -> bytes:
    """Send raw bytes; return the reply, until the server closes or `read` bytes have come."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    with suppress(ConnectionError):
        for part in parts:
            writer.write(part)
            await writer.drain()
    answer = b""
    with suppress(ConnectionError, TimeoutError):
        answer = await asyncio.wait_for(reader.read(read), 5)
    writer.transport.abort()
    return answer


def refusal(response: httpx.Response, status: int, code: str = "invalid_request") -> str:
    """The message of a refusal, in the one form that all have."""
    assert response.status_code == status, response.text
    body = response.json()
    assert list(body) == ["error"] and set(body["error"]) == {"code", "message"}
    assert body["error"]["code"] == code
    return str(body["error"]["message"])


async def assert_serves(server: ThreadServer) -> None:
    async with http(server) as client:
        health = (await client.get("/health")).json()
        assert (health["status"], health["open_streams"]) == ("ok", 0)


async def test_health(server: ThreadServer) -> None:
    async with http(server) as client:
        response = await client.get("/health")
    assert response.json() == {"status": "ok", "engine": "scripted", "flush": "token", "open_streams": 0}


@pytest.mark.parametrize("interface", http_borne())
async def test_health_says_that_the_engine_answers_no_more(interface: str) -> None:
    with thread_server(interface, Watched()) as running:
        running.service.engine.close()
        async with http(running) as client:
            response = await client.get("/health")
    assert response.status_code == 503
    assert (response.json()["status"], response.json()["reason"]) == ("failed", "the engine is closed")


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost@evil.example", "[::2]", ""],
)
async def test_foreign_host_is_misdirected(server: ThreadServer, host: str) -> None:
    async with http(server) as client:
        refusal(await client.get("/health", headers={"host": host}), 421)
    await assert_serves(server)


async def test_own_names_are_answered(server: ThreadServer) -> None:
    async with http(server) as client:
        port = server.port
        for host in (
            f"127.0.0.1:{port}",
            f"LOCALHOST:{port}",
            "localhost",
            "[::1]",
            "127.0.0.1",
            "a.localhost",
        ):
            assert (await client.get("/health", headers={"host": host})).status_code == 200, host


@pytest.mark.parametrize("address", ["127.0.0.2", "localhost", "::1"])
@pytest.mark.parametrize("interface", http_borne())
async def test_every_loopback_address_is_guarded(interface: str, address: str) -> None:
    try:
        running = thread_server(interface, Watched(), host=address)
    except StartError as error:
        pytest.skip(f"this machine has no {address}: {error}")
    with running:
        authority = running.url.partition("://")[2]
        async with httpx.AsyncClient(base_url=f"http://{authority}", trust_env=False, verify=False) as client:
            assert (await client.get("/health")).status_code == 200
            assert (
                await client.get("/health", headers={"host": f"127.0.0.1:{running.port}"})
            ).status_code == 200
            refusal(await client.get("/health", headers={"host": "evil.example"}), 421)


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1", "https://localhost"])
async def test_foreign_origin_is_refused(server: ThreadServer, origin: str) -> None:
    async with http(server) as client:
        refusal(await client.get("/health", headers={"origin": origin}), 403)


async def test_own_origin_is_allowed(server: ThreadServer) -> None:
    async with http(server) as client:
        own = {"origin": f"http://127.0.0.1:{server.port}"}
        assert (await client.get("/health", headers=own)).status_code == 200


@pytest.mark.parametrize("site", ["cross-site", "same-site", "made-up"])
async def test_foreign_page_is_refused_where_only_the_browser_names_it(
    server: ThreadServer, site: str
) -> None:
    async with http(server) as client:
        for fetch in ({"sec-fetch-dest": "image"}, {"sec-fetch-mode": "navigate", "sec-fetch-user": "?1"}):
            refusal(await client.get("/health", headers={"sec-fetch-site": site, **fetch}), 403)


@pytest.mark.parametrize("site", ["none", "same-origin"])
async def test_an_address_that_the_user_typed_is_answered(server: ThreadServer, site: str) -> None:
    async with http(server) as client:
        assert (await client.get("/health", headers={"sec-fetch-site": site})).status_code == 200


async def test_a_foreign_page_cannot_open_a_stream_as_an_image() -> None:
    with thread_server("sse", engine := Watched()) as server:
        async with http(server) as client:
            image = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"}
            refusal(await client.get("/generate", params={"prompt": "x"}, headers=image), 403)
    assert not engine.streams


async def test_foreign_origin_cannot_start_the_model(generating: ThreadServer) -> None:
    async with http(generating) as client:
        foreign = {"origin": "http://evil.example"}
        answer = await client.post("/generate", json={"prompt": "x"}, headers=foreign)
    refusal(answer, 403)
    assert isinstance(generating.service.engine, Watched) and not generating.service.engine.streams


async def test_declared_flood_is_refused_at_once(server: ThreadServer) -> None:
    head = b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 150000000\r\n\r\n"
    answer = await raw(server, head)
    assert answer.startswith(b"HTTP/1.1 413 ") and b'"too_large"' in answer
    await assert_serves(server)


async def test_undeclared_flood_is_cut_at_the_limit(generating: ThreadServer) -> None:
    head = b"POST /generate HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    before = psutil.Process().memory_info().rss
    answer = await raw(generating, head, *[b"10000\r\n" + b" " * 65_536 + b"\r\n"] * 400)
    # The reset that follows may discard the answer, because the client was still sending.
    assert answer == b"" or answer.startswith(b"HTTP/1.1 413 ")
    assert psutil.Process().memory_info().rss - before < 64 * 2**20
    await assert_serves(generating)


async def test_undeclared_body_just_over_the_limit_is_told(generating: ThreadServer) -> None:
    async def body() -> Any:
        for _ in range(MAX_BODY // 1024 + 1):
            yield b" " * 1024

    async with http(generating) as client:
        refusal(await client.post("/generate", content=body()), 413, "too_large")


BROKEN = {
    "deep": b'{"prompt":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "long integer": b'{"prompt":"x","seed":' + b"9" * 5_000 + b"}",
    "bad UTF-8": b'{"prompt":"\xff\xfe"}',
    "lone surrogate": b'{"prompt":"\\ud800"}',
    "lone surrogate in stop": b'{"prompt":"x","stop":["\\udfff"]}',
    "not JSON": b"prompt=x",
    "empty": b"",
    "null": b"null",
    "list": b"[]",
    "text": b'"x"',
    "truncated": b'{"prompt":"x"',
    "NaN": b'{"prompt":"x","temperature":NaN}',
    "infinite": b'{"prompt":"x","temperature":1e999}',
    "no prompt": b"{}",
    "unknown field": b'{"prompt":"x","colour":"red"}',
    "prompt is a list": b'{"prompt":["x"]}',
    "tokens are text": b'{"prompt":"x","max_tokens":"many"}',
    "half a token": b'{"prompt":"x","max_tokens":1.5}',
}


@pytest.mark.parametrize("body", BROKEN.values(), ids=BROKEN.keys())
async def test_broken_body_is_refused(generating: ThreadServer, body: bytes) -> None:
    async with http(generating) as client:
        response = await client.post("/generate", content=body, headers={"content-type": "application/json"})
    assert response.status_code in (400, 422)
    message = refusal(response, response.status_code)
    assert 0 < len(message) < 500 and " at 0x" not in message
    assert isinstance(generating.service.engine, Watched) and not generating.service.engine.streams
    await assert_serves(generating)


async def test_refusal_does_not_echo_the_input(generating: ThreadServer) -> None:
    async with http(generating) as client:
        for fields in ({"prompt": ["<script>"]}, {"prompt": "x", "seed": "<script>"}):
            assert "<script>" not in (await client.post("/generate", json=fields)).text


async def test_headers_over_the_limit_are_refused(server: ThreadServer) -> None:
    async with http(server) as client:
        response = await client.get("/health", headers={"x-large": "x" * (MAX_HEADERS + 1)})
    refusal(response, 431, "too_large")
    await assert_serves(server)


async def test_an_endless_address_is_a_bad_request(server: ThreadServer) -> None:
    answer = await raw(server, b"GET /health?" + b"x" * (MAX_HEADERS + 1))
    assert answer.startswith(b"HTTP/1.1 400 ") and b'"too_large"' in answer
    await assert_serves(server)


@pytest.mark.parametrize(
    "head",
    [
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Endless: ",
        b"GET /health?",
        b"POST /generate HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Trailer: ",
        b"POST /generate HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n1;",
    ],
    ids=["header", "address", "trailer", "chunk extension"],
)
async def test_endless_line_does_not_grow_the_memory(server: ThreadServer, head: bytes) -> None:
    process = psutil.Process()
    before = process.memory_info().rss
    _, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(head)
    grown = 0
    with suppress(ConnectionError, TimeoutError):
        for _ in range(100):
            writer.write(b"x" * 2**20)
            await asyncio.wait_for(writer.drain(), 2)
            grown = max(grown, process.memory_info().rss - before)
            if grown > 32 * 2**20:
                break
    writer.transport.abort()
    assert grown < 32 * 2**20
    await assert_serves(server)


async def test_many_small_headers_do_not_grow_the_memory(server: ThreadServer) -> None:
    head = b"GET /health HTTP/1.1\r\nHost: localhost\r\n"
    answer = await raw(server, head, *[b"X-%d: y\r\n" % i for i in range(20_000)])
    assert answer == b"" or answer.split()[1] in (b"400", b"431")
    await assert_serves(server)


async def test_second_request_on_a_connection_has_a_limit_of_its_own(server: ThreadServer) -> None:
    async with http(server) as client:
        for _ in range(4):
            assert (await client.get("/health", headers={"x-large": "x" * 10_000})).status_code == 200


@pytest.mark.parametrize(
    "request_",
    [
        b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nxxxxx",
        b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: +5\r\n\r\nxxxxx",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"NONSENSE\r\n\r\n",
    ],
    ids=["two lengths", "two content-lengths", "signed length", "TLS", "nonsense"],
)
async def test_smuggling_and_noise_get_400(server: ThreadServer, request_: bytes) -> None:
    head, _, body = (await raw(server, request_)).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ") and json.loads(body)["error"]["code"] == "invalid_request"
    await assert_serves(server)


async def test_unknown_address_and_method_in_the_error_form(server: ThreadServer) -> None:
    async with http(server) as client:
        refusal(await client.get("/nothing/here"), 404)
        refusal(await client.request("DELETE", "/health"), 405)


async def test_head_does_not_hang(server: ThreadServer) -> None:
    async with http(server) as client:
        for path in ("/health", "/generate"):
            response = await asyncio.wait_for(client.head(path), PATIENCE_S)
            assert response.status_code in (200, 404, 405) and response.content == b""
    await assert_serves(server)


async def test_stream_by_query_parameters() -> None:
    with thread_server("sse", Watched(interval_ms=0)) as server:
        async with http(server) as client:
            query = {"prompt": "one two", "max_tokens": "3", "stop": ["never", "no"], "stamps": "true"}
            response = await client.get("/generate", params=query)
            assert response.headers["content-type"].startswith("text/event-stream")
            events = Parser().feed(response.content)
            assert [event.event for event in events] == ["started", "token", "token", "token", "finished"]
            assert [event.last_id for event in events] == list("01234")
            assert [json.loads(event.data)["id"] for event in events] == list(range(5))
            for bad in ({}, {"prompt": ""}, {"prompt": "x", "max_tokens": "0"}, {"prompt": "x", "no": "1"}):
                refusal(await client.get("/generate", params=bad), 422)


async def test_engine_failure_as_each_protocol_says_it() -> None:
    with thread_server("rest", Watched(interval_ms=0, fail_after=5)) as server:
        async with http(server) as client:
            message = refusal(await client.post("/generate", json={"prompt": "x"}), 500, "engine_failed")
            assert "scripted to fail" in message
    with thread_server("sse", Watched(interval_ms=0, fail_after=5)) as server:
        async with http(server) as client:
            response = await client.post("/generate", json={"prompt": "x"})
            assert response.status_code == 200, "it had begun well"
            last = Parser().feed(response.content)[-1]
    assert (last.event, last.last_id) == ("failed", "6")
    assert json.loads(last.data)["code"] == "engine_failed"


async def test_too_many_streams_say_when_to_come_again(generating: ThreadServer) -> None:
    admission = generating.service.admission
    usual, admission.max_streams = admission.max_streams, 0
    async with http(generating) as client:
        response = await client.post("/generate", json={"prompt": "x"})
    admission.max_streams = usual
    refusal(response, 503, "overloaded")
    assert response.headers["retry-after"] == "1"
