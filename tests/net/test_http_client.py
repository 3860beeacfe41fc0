"""What labkit's HTTP clients do about a dropped connection and a redirect."""

import httpx
import pytest
from standin import HELLO, breaks, drops, replies, streams, upstream
from support import ask, connect, http_borne

from labkit import interfaces
from labkit.engine.scripted import ScriptedEngine
from labkit.errors import LabkitError
from labkit.net.http_client import HTTPClient
from labkit.service.service import Service
from labkit.web import http

OVER_HTTP = [n for n in http_borne() if interfaces.server(n)(Service(ScriptedEngine())).scheme == "http"]


async def posted(client: HTTPClient) -> bytes:
    async with client.stream("POST", "/generate", content=b"{}") as response:
        return b"".join([data async for data in response.aiter_raw()])


async def test_a_kept_connection_that_the_server_dropped_is_replaced() -> None:
    async with upstream(streams(*HELLO), drops, streams(*HELLO)) as far, http.pooled(far.url) as client:
        assert await posted(client) == await posted(client) == b"".join(HELLO)
    assert (len(far.posts), far.connections) == (3, 2)


async def test_an_answer_that_has_begun_is_not_asked_for_again() -> None:
    async with upstream(streams(*HELLO), streams(then=breaks)) as far, http.pooled(far.url) as client:
        await posted(client)
        with pytest.raises(httpx.TransportError):
            await posted(client)
    assert (len(far.posts), far.connections) == (2, 1)


@pytest.mark.parametrize("interface", OVER_HTTP)
async def test_a_client_names_the_target_of_a_redirect(interface: str) -> None:
    async with (
        upstream(replies(307, b"", location="/elsewhere")) as far,
        connect(interface, far.url) as client,
    ):
        target = f"{far.url.removesuffix('/v1')}/elsewhere"
        with pytest.raises(LabkitError, match=f"HTTP 307: it redirects to {target},"):
            await client.record(ask())
