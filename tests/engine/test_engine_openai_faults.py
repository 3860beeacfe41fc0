"""The engine behind an OpenAI-compatible endpoint: refusals, answers that break off, and keys kept secret."""

import asyncio
import json
import logging
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from standin import (
    HELLO,
    ROLE,
    Call,
    Responder,
    collect,
    engine,
    failure,
    hangs,
    replies,
    says,
    streams,
    text_of,
    upstream,
)
from support import PATIENCE_S, until

from labkit.engine import openai
from labkit.engine.openai import OpenAIEngine
from labkit.engine.openai_api import retry_after_s
from labkit.errors import InvalidRequest
from labkit.events import Failed, GenerateRequest
from labkit.wire import MAX_MESSAGE

KEY = "sk-stand-in-0123456789"


@pytest.mark.parametrize(
    "answer", [replies(200, b'{"data":[]}'), replies(200, b"<html>"), replies(500, b"Internal Server Error")]
)
async def test_without_a_list_of_models_the_message_suggests_naming_one(answer: Responder) -> None:
    async with upstream(streams(*HELLO)) as far, engine(far.url) as near:
        far.models = answer
        (last,) = await collect(near.submit(GenerateRequest(prompt="hi")))
        assert isinstance(last, Failed)
        assert last.code == "engine_failed"
        assert f"{far.url}/models" in last.message
        assert "with model=NAME" in last.message
    assert far.posts == []


async def test_the_key_is_sent_and_never_shown(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("OPENAI_API_KEY", KEY + "\n")
    echoing = replies(
        401, json.dumps({"error": {"message": f"Incorrect API key: {KEY}" + "x" * 400}}).encode()
    )
    padded = replies(500, b"x" * 290 + KEY.encode())
    middle = streams(ROLE, b'data: {"error":{"message":"bad key %b"}}\n\n' % KEY.encode())
    async with upstream(echoing, padded, middle) as far, engine(far.url) as near:
        ends = [(await collect(near.submit(GenerateRequest(prompt="hi"))))[-1] for _ in range(3)]
    assert [call.headers["authorization"] for call in far.posts] == [f"Bearer {KEY}"] * 3
    assert isinstance(ends[0], Failed)
    assert "environment variable OPENAI_API_KEY" in ends[0].message
    assert "[key]" in ends[0].message
    assert KEY[:8] not in f"{ends} {near!r} {caplog.text}"


def test_a_key_that_no_header_can_carry_is_refused_unshown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-\n123")
    with pytest.raises(
        InvalidRequest, match=r"^OPENAI_API_KEY has characters that no HTTP header can carry$"
    ):
        OpenAIEngine("http://127.0.0.1:1/v1")


@pytest.mark.parametrize("url", ["", "127.0.0.1:8001", "ftp://127.0.0.1/v1", "http://", "http://[::1"])
def test_a_wrong_url_is_refused_with_a_right_one(url: str) -> None:
    with pytest.raises(InvalidRequest, match=r"http://127\.0\.0\.1:8001/v1"):
        OpenAIEngine(url)


def test_a_key_in_the_url_is_refused_unshown() -> None:
    with pytest.raises(InvalidRequest) as error:
        OpenAIEngine(f"https://me:{KEY}@example.org/v1")
    assert KEY not in str(error.value)


@pytest.mark.parametrize("timeout_s", [0.0, -1.0, float("nan"), float("inf")])
def test_a_patience_out_of_range_is_refused(timeout_s: float) -> None:
    with pytest.raises(InvalidRequest, match="timeout_s"):
        OpenAIEngine("http://127.0.0.1:1/v1", timeout_s=timeout_s)


@pytest.mark.parametrize(
    ("status", "body", "code", "says"),
    [
        (
            400,
            b'{"error":{"message":"max_tokens is too large"}}',
            "invalid_request",
            "max_tokens is too large",
        ),
        (401, b'{"error":{"message":"no"}}', "engine_failed", "OPENAI_API_KEY"),
        (
            404,
            b'{"object":"error","message":"The model `x`\\ndoes not exist."}',
            "engine_failed",
            "`x` does not",
        ),
        (404, b"<html>nothing here</html>", "engine_failed", "often ends in /v1"),
        (413, b'{"error":"too much"}', "too_large", "too much"),
        (422, b'{"detail":[{"loc":["body","top_k"]}]}', "invalid_request", "HTTP 422: [{'loc'"),
        (429, b'{"error":{"message":"quota"}}', "overloaded", "quota"),
        (500, b"", "engine_failed", "HTTP 500"),
        (307, b"", "engine_failed", "HTTP 307"),
    ],
)
async def test_a_refusal_fails_with_a_fitting_code_and_the_endpoints_words(
    status: int, body: bytes, code: str, says: str
) -> None:
    failed = await failure(replies(status, body))
    assert failed.id == 0
    assert failed.code == code
    assert says in failed.message
    assert f"HTTP {status}" in failed.message


@pytest.mark.parametrize("lines", [1000, 1_000_000])
async def test_the_endpoints_words_are_one_bounded_line(lines: int) -> None:
    body = json.dumps({"error": {"message": "a word\n" * lines}}).encode()
    failed = await failure(replies(400, body))
    assert "a word" in failed.message
    assert "\n" not in failed.message
    assert len(failed.message) < 500


@pytest.mark.parametrize("status", [429, 503])
async def test_a_short_retry_after_is_waited_for(status: int) -> None:
    busy = replies(status, b"{}", retry_after="1")
    loop = asyncio.get_running_loop()
    async with upstream(busy, streams(*HELLO)) as far, engine(far.url) as near:
        begin = loop.time()
        events = await collect(near.submit(GenerateRequest(prompt="hi")))
        assert loop.time() - begin >= 0.95
    assert text_of(events) == ["Hello", ", wörld"]
    assert [event.id for event in events] == [0, 1, 2, 3]
    assert len(far.posts) == 2


async def test_a_long_retry_after_fails_at_once_and_is_named() -> None:
    busy = replies(429, b'{"error":{"message":"slow down"}}', retry_after="31")
    async with upstream(busy) as far, engine(far.url) as near:
        (last,) = await collect(near.submit(GenerateRequest(prompt="hi")))
    assert isinstance(last, Failed)
    assert last.code == "overloaded"
    assert "slow down" in last.message and "Retry-After: 31 s" in last.message
    assert len(far.posts) == 1


async def test_retries_are_bounded_in_number() -> None:
    async with upstream(replies(429, b"{}", retry_after="0")) as far, engine(far.url) as near:
        (last,) = await collect(near.submit(GenerateRequest(prompt="hi")))
    assert isinstance(last, Failed)
    assert last.code == "overloaded"
    assert len(far.posts) == openai.RETRIES + 1


def test_retry_after_is_seconds_or_a_date() -> None:
    assert retry_after_s({"retry-after": "7"}) == 7
    in_a_minute = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    assert retry_after_s({"retry-after": in_a_minute}) == pytest.approx(60, abs=30)
    assert retry_after_s({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0
    assert [retry_after_s({"retry-after": text}) for text in ("soon", "-1", "1e9", "")] == [None] * 4


async def test_an_event_without_an_end_is_not_collected_for_ever() -> None:
    async def endless(call: Call) -> None:
        await call.head()
        await call.send(b"data: ")
        while not call.disconnected.is_set():
            await call.send(b"x" * 65_536)

    assert f"over {MAX_MESSAGE} bytes" in (await failure(endless)).message


async def test_a_refusal_without_an_end_is_not_collected_for_ever() -> None:
    async def endless(call: Call) -> None:
        await call.head(400)
        while not call.disconnected.is_set():
            await call.send(b"no " * 20_000)

    assert "HTTP 400: no no no" in (await failure(endless)).message


async def test_an_endpoint_whose_answer_cannot_be_used_is_left() -> None:
    broken = streams(says("He"), b'data: {"error":"out of memory"}\n\n', then=hangs)
    async with upstream(broken) as far, engine(far.url) as near:
        *_, last = await collect(near.submit(GenerateRequest(prompt="hi")))
        assert isinstance(last, Failed)
        async with asyncio.timeout(PATIENCE_S):
            await far.posts[0].disconnected.wait()


@pytest.mark.parametrize("kind", ["application/json", "text/html; charset=utf-8"])
async def test_an_answer_that_is_no_event_stream_is_named(kind: str) -> None:
    async def answer(call: Call) -> None:
        await call.head(kind=kind)
        await call.send(b'{"message": "cannot stream"}')
        await call.end()

    failed = await failure(answer)
    assert kind in failed.message and "cannot stream" in failed.message


@pytest.mark.parametrize("answer", [hangs, streams(then=hangs), streams(ROLE, says("He"), then=hangs)])
async def test_silence_over_the_patience_fails(answer: Responder) -> None:
    failed = await failure(answer, timeout_s=0.2)
    assert failed.code == "engine_failed"
    assert "not a byte in 0.2 s (timeout_s)" in failed.message


async def test_no_retry_follows_after_the_reader_has_left() -> None:
    async with upstream(replies(429, b"{}", retry_after="1")) as far, engine(far.url) as near:
        stream = near.submit(GenerateRequest(prompt="hi"))
        await until(lambda: far.posts, "the request has come")
        await asyncio.sleep(0.05)
        stream.close()
        await until(lambda: not near._tasks, "its task ends")
        await asyncio.sleep(1.1)
        assert len(far.posts) == 1
