"""The OpenAPI document of each HTTP-borne server says what that server does."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import jsonschema  # type: ignore[import-untyped]
import pytest
from support import Watched, http_borne, thread_server

from labkit.launch.threaded import ThreadServer
from labkit.web.guard import MAX_BODY, MAX_HEADERS
from labkit.wire.eventstream import Parser

ASK = {"prompt": "one two", "max_tokens": 3}


@pytest.fixture(scope="module", params=http_borne())
def server(request: pytest.FixtureRequest) -> Iterator[ThreadServer]:
    with thread_server(request.param, Watched(interval_ms=0)) as running:
        yield running


@pytest.fixture(params=["rest", "sse"])
def generating(request: pytest.FixtureRequest) -> Iterator[ThreadServer]:
    """A server with `POST /generate`, whose engine may be broken."""
    with thread_server(request.param, Watched(interval_ms=0)) as running:
        yield running


def http(server: ThreadServer) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}", trust_env=False, verify=False)


async def document(server: ThreadServer) -> dict[str, Any]:
    async with http(server) as client:
        described: dict[str, Any] = (await client.get("/openapi.json")).json()
    return described


async def described(server: ThreadServer, method: str, path: str, **options: Any) -> httpx.Response:
    """Send a request, and check its answer against the document: its status, its media type, its body."""
    async with http(server) as client:
        response = await client.request(method, path, **options)
    whole = await document(server)
    operation = whole["paths"][path][method.lower()]
    assert str(response.status_code) in operation["responses"], f"{response.status_code} is not listed"
    content = operation["responses"][str(response.status_code)].get("content", {})
    if not response.content:
        return response
    media_type = response.headers["content-type"].partition(";")[0]
    assert media_type in content
    if media_type == "application/json":
        schema = {**content[media_type]["schema"], "components": whole["components"]}
        jsonschema.validate(response.json(), schema)
    return response


async def test_health_is_described(server: ThreadServer) -> None:
    assert (await described(server, "GET", "/health")).status_code == 200


async def test_health_of_a_broken_engine_is_described(generating: ThreadServer) -> None:
    generating.service.engine.close()
    for method in ("GET", "HEAD"):
        assert (await described(generating, method, "/health")).status_code == 503


async def test_head_is_answered_as_get_is(server: ThreadServer) -> None:
    head, get = await described(server, "HEAD", "/health"), await described(server, "GET", "/health")
    assert (head.status_code, head.content) == (200, b"")
    for name in ("content-type", "content-length"):
        assert head.headers[name] == get.headers[name]


REFUSED: dict[int, dict[str, Any]] = {
    400: {"content": b"\xff", "headers": {"content-type": "application/json"}},
    403: {"json": ASK, "headers": {"origin": "http://evil.example"}},
    413: {"content": b" " * (MAX_BODY + 1)},
    421: {"json": ASK, "headers": {"host": "evil.example"}},
    422: {"json": {**ASK, "max_tokens": 0}},
    431: {"json": ASK, "headers": {"x-large": "x" * MAX_HEADERS}},
}


@pytest.mark.parametrize("status", REFUSED)
async def test_each_refusal_is_described(generating: ThreadServer, status: int) -> None:
    assert (await described(generating, "POST", "/generate", **REFUSED[status])).status_code == status


async def test_a_full_server_is_described(generating: ThreadServer) -> None:
    generating.service.admission.max_streams = 0
    assert (await described(generating, "POST", "/generate", json=ASK)).status_code == 503


async def test_a_whole_answer_is_described() -> None:
    with thread_server("rest", engine := Watched(interval_ms=0)) as server:
        for stamps in (False, True):
            response = await described(server, "POST", "/generate", json={**ASK, "stamps": stamps})
            assert response.status_code == 200 and len(response.json()["tokens"]) == 3
        engine.fail_after = 1
        assert (await described(server, "POST", "/generate", json=ASK)).status_code == 500


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_an_event_stream_is_described_event_by_event(method: str) -> None:
    with thread_server("sse", Watched(interval_ms=0)) as server:
        fields = {**ASK, "stamps": True}
        asked = {"params": {**fields, "stamps": "true"}} if method == "GET" else {"json": fields}
        response = await described(server, method, "/generate", **asked)
        operation = (await document(server))["paths"]["/generate"][method.lower()]
    event = operation["responses"]["200"]["content"]["text/event-stream"]["itemSchema"]
    events = Parser().feed(response.content)
    assert [got.event for got in events] == ["started", "token", "token", "token", "finished"]
    for got in events:
        jsonschema.validate({"event": got.event, "id": got.last_id, "data": got.data}, event)
        jsonschema.validate(json.loads(got.data), event["properties"]["data"]["contentSchema"])
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"type": "token", "id": "1"}, event["properties"]["data"]["contentSchema"])


MISTYPED: dict[str, Any] = {
    "max_tokens": "3",
    "seed": True,
    "temperature": "0.5",
    "stamps": 0,
    "ignore_eos": "yes",
    "stop": "word",
    "request_id": 7,
}


@pytest.mark.parametrize("field", MISTYPED)
async def test_a_value_of_another_type_is_refused_by_name(generating: ThreadServer, field: str) -> None:
    response = await described(generating, "POST", "/generate", json={**ASK, field: MISTYPED[field]})
    assert response.status_code == 422 and response.json()["error"]["message"].startswith(f"{field}: ")


async def test_a_whole_number_may_be_written_with_a_point(generating: ThreadServer) -> None:
    body = b'{"prompt": "x", "max_tokens": 3.0, "temperature": 1}'
    kind = {"content-type": "application/json"}
    response = await described(generating, "POST", "/generate", content=body, headers=kind)
    assert response.status_code == 200


async def test_a_wrong_method_is_told_the_right_ones(generating: ThreadServer) -> None:
    methods = "GET, POST" if generating.name == "sse" else "POST"
    async with http(generating) as client:
        for method in ("PUT", "TRACE", "HEAD"):
            response = await client.request(method, "/generate")
            assert (response.status_code, response.headers["allow"]) == (405, methods), method
        assert (await client.delete("/health")).headers["allow"] == "GET, HEAD"


async def test_no_page_needs_the_internet(server: ThreadServer) -> None:
    async with http(server) as client:
        for path in ("/docs", "/redoc", "/docs/oauth2-redirect"):
            response = await client.get(path)
            assert response.status_code == 404 and response.json()["error"]["code"] == "invalid_request"
