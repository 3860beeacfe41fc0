"""How the engine reaches an endpoint: redirects, queries, dropped connections, proxies, a check before it."""

import pytest
from standin import (
    HELLO,
    ROLE,
    Responder,
    breaks,
    collect,
    drops,
    engine,
    failure,
    hangs,
    replies,
    says,
    streams,
    text_of,
    upstream,
)
from support import free_port

from labkit.engine import openai
from labkit.errors import EngineFailed
from labkit.events import Failed, GenerateRequest


@pytest.mark.parametrize("status", [301, 307, 308])
async def test_a_redirect_names_its_target(status: int) -> None:
    failed = await failure(replies(status, b"", location="https://other.example/v1/chat/completions?key=1"))
    assert f"HTTP {status}: it redirects to https://other.example/v1/chat/completions," in failed.message


async def test_a_query_is_not_shown() -> None:
    """A key may stand in it, and errors travel to the readers."""
    async with upstream(replies(400, b"{}")) as far, engine(far.url + "?key=secret") as near:
        (last,) = await collect(near.submit(GenerateRequest(prompt="hi")))
    assert isinstance(last, Failed)
    assert far.url in last.message and "secret" not in last.message


async def test_a_kept_connection_that_was_dropped_is_replaced() -> None:
    """The stand-in closes each connection when the second request comes on it, before any answer."""
    hello = streams(*HELLO)
    async with upstream(hello, drops, hello, drops, hello) as far, engine(far.url, model="any") as near:
        for _ in range(3):
            events = await collect(near.submit(GenerateRequest(prompt="hi")))
            assert text_of(events) == ["Hello", ", wörld"]
    assert (len(far.posts), far.connections) == (5, 3)


@pytest.mark.parametrize("answer", [drops, breaks, streams(then=breaks)])
async def test_a_new_connection_that_was_dropped_is_not_asked_again(answer: Responder) -> None:
    async with upstream(answer) as far, engine(far.url, model="any") as near:
        (*_, last) = await collect(near.submit(GenerateRequest(prompt="hi")))
    assert isinstance(last, Failed) and "broke off" in last.message
    assert len(far.posts) == 1


async def test_an_answer_that_has_begun_is_not_asked_for_again() -> None:
    begun = streams(ROLE, says("He"), then=breaks)
    async with upstream(streams(*HELLO), begun) as far, engine(far.url, model="any") as near:
        await collect(near.submit(GenerateRequest(prompt="hi")))
        *_, last = await collect(near.submit(GenerateRequest(prompt="hi")))
    assert isinstance(last, Failed)
    assert (len(far.posts), far.connections) == (2, 1)


async def test_check_tells_what_a_request_would_fail_with() -> None:
    async with upstream(streams(*HELLO)) as far, engine(far.url) as near, engine(far.url, model="m") as named:
        await near.check()
        far.models = replies(404, b"")
        await named.check()
        with pytest.raises(EngineFailed, match="HTTP 404"):
            await near.check()
    assert far.posts == []
    async with engine(f"http://127.0.0.1:{free_port()}/v1", model="m") as dead:
        with pytest.raises(EngineFailed, match=rf"cannot connect to {dead.url}: is the server running\?"):
            await dead.check()


async def test_check_does_not_wait_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai, "CHECK_S", 0.05)
    async with upstream(streams(*HELLO)) as far, engine(far.url, model="m") as near:
        far.models = hangs
        with pytest.raises(EngineFailed, match=r"no answer in 0\.05 s"):
            await near.check()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "0.0.0.0", "localhost"])
async def test_no_proxy_stands_before_this_machine(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    async with upstream(streams(*HELLO), host="0.0.0.0") as far:
        async with engine(far.url.replace("127.0.0.1", host)) as near:
            assert text_of(await collect(near.submit(GenerateRequest(prompt="hi")))) == ["Hello", ", wörld"]
        async with engine("http://model.example/v1") as other:
            (last,) = await collect(other.submit(GenerateRequest(prompt="hi")))
            assert isinstance(last, Failed) and "cannot connect" in last.message


async def test_a_server_that_is_not_there_is_named() -> None:
    url = f"http://127.0.0.1:{free_port()}/v1"
    async with engine(url) as near:
        (last,) = await collect(near.submit(GenerateRequest(prompt="hi")))
    assert isinstance(last, Failed)
    assert last.code == "engine_failed"
    assert f"cannot connect to {url}: is the server running?" in last.message
