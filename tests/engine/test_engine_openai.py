"""The engine behind an OpenAI-compatible endpoint: what it sends, and what it makes of an answer."""

import asyncio
import logging
import re
import time
from collections.abc import Callable

import pytest
from standin import (
    DONE,
    END,
    HELLO,
    ROLE,
    Call,
    Responder,
    ask,
    collect,
    engine,
    hangs,
    replies,
    says,
    streams,
    text_chunk,
    text_of,
    upstream,
)
from support import PATIENCE_S, connect, settled, thread_server, until

from labkit.background import LoopThread
from labkit.cli.stream import summary
from labkit.engine.text_stream import TokenStream
from labkit.errors import EngineFailed, InvalidRequest
from labkit.events import UNCOUNTED, Failed, Finished, GenerateRequest, Started, Token
from labkit.stream import HIGH_WATER


@pytest.mark.parametrize("size", [1, 7, 1000, 100_000])
async def test_a_chat_becomes_a_stream_however_its_bytes_are_cut(size: int) -> None:
    whole = b"".join(HELLO)
    pieces = [whole[at : at + size] for at in range(0, len(whole), size)]
    assert await ask(streams(*pieces)) == [
        Started(0, "", "first", 0),
        Token(1, "Hello"),
        Token(2, ", wörld"),
        Finished(3, "stop", 2, tokens=10),
    ]


async def test_a_plain_completion_continues_the_prompt() -> None:
    pieces = [text_chunk(" upon"), text_chunk(" a time"), text_chunk("", '"length"'), DONE]
    async with upstream(streams(*pieces)) as far, engine(far.url, api="completions") as near:
        events = await collect(near.submit(GenerateRequest(prompt="Once", max_tokens=2)))
    assert text_of(events) == [" upon", " a time"]
    assert events[-1] == Finished(3, "length", 2, UNCOUNTED)
    (call,) = far.posts
    assert call.path == "/v1/completions"
    assert call.body["prompt"] == "Once"
    assert "messages" not in call.body


async def test_the_request_travels_in_openais_words_and_says_only_what_was_asked() -> None:
    """Some endpoints refuse `temperature` beside `top_p`, `top_p` 1, `seed` or `stream_options`."""
    plain = GenerateRequest(prompt="hi", top_p=1.0, temperature=0.8, seed=0)
    asked = GenerateRequest(prompt="hi", max_tokens=9, temperature=0.0, top_p=0.9, seed=7, stop=["\n"])
    extended = GenerateRequest(prompt="hi", top_k=40, ignore_eos=True)
    always = {"model": "mine:7b", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    async with upstream(streams(*HELLO)) as far, engine(far.url + "/", model="mine:7b") as near:
        for request in (plain, asked, extended):
            await collect(near.submit(request))
    assert {call.path for call in far.posts} == {"/v1/chat/completions"}
    assert "authorization" not in far.posts[0].headers
    assert [call.body for call in far.posts] == [
        {**always, "max_tokens": 128},
        {**always, "max_tokens": 9, "temperature": 0.0, "top_p": 0.9, "seed": 7, "stop": ["\n"]},
        {**always, "max_tokens": 128, "top_k": 40, "ignore_eos": True},
    ]


async def test_the_endpoints_count_can_be_asked_for() -> None:
    async with upstream(streams(*HELLO)) as far, engine(far.url, usage=True) as near:
        await collect(near.submit(GenerateRequest(prompt="hi")))
    assert far.posts[0].body["stream_options"] == {"include_usage": True}


async def test_an_endpoint_that_calls_the_limit_otherwise_is_asked_in_its_word() -> None:
    """As OpenAI's reasoning models do; the word is remembered."""
    refuses = replies(
        400,
        b'{"error":{"message":"Unsupported parameter: \'max_tokens\' is not supported with this model. '
        b'Use \'max_completion_tokens\' instead.","param":"max_tokens"}}',
    )
    async with upstream(refuses, streams(*HELLO)) as far, engine(far.url) as near:
        for _ in range(2):
            assert text_of(await collect(near.submit(GenerateRequest(prompt="hi", max_tokens=9))))
    limits = [(call.body.get("max_tokens"), call.body.get("max_completion_tokens")) for call in far.posts]
    assert limits == [(9, None), (None, 9), (None, 9)]


@pytest.mark.parametrize("tail", ["?api-version=1", "/?api-version=1", "?api-version=1#part"])
async def test_a_query_stays_last(tail: str) -> None:
    async with upstream(streams(*HELLO)) as far, engine(far.url + tail) as near:
        await collect(near.submit(GenerateRequest(prompt="hi")))
    assert [call.path for call in far.calls] == [
        "/v1/models?api-version=1",
        "/v1/chat/completions?api-version=1",
    ]


async def test_models_are_listed_once_and_not_at_all_for_a_named_model() -> None:
    async with upstream(streams(*HELLO)) as far, engine(far.url) as near:
        for _ in range(2):
            events = await collect(near.submit(GenerateRequest(prompt="hi")))
            assert isinstance(events[0], Started) and events[0].model == "first"
        assert [call.path for call in far.calls if call.method == "GET"] == ["/v1/models"]
        async with engine(far.url, model="second") as named:
            await collect(named.submit(GenerateRequest(prompt="hi")))
    assert [call.body["model"] for call in far.posts] == ["first", "first", "second"]
    assert len(far.calls) == 4


@pytest.mark.parametrize(
    ("pieces", "tokens", "counted"),
    [(HELLO, 10, "10 tokens in 2 chunks"), ([says("a"), says("b"), END, DONE], UNCOUNTED, "2 chunks")],
    ids=["the endpoint counts", "nobody counts"],
)
async def test_chunks_are_not_called_tokens(
    interface: str, pieces: list[bytes], tokens: int, counted: str
) -> None:
    async with upstream(streams(*pieces)) as far, engine(far.url) as near:
        with thread_server(interface, near) as server:
            async with connect(interface, server) as client:
                recording = await client.record(GenerateRequest(prompt="hi"))
    assert isinstance(recording.end, Finished)
    assert (recording.end.pieces, recording.end.tokens) == (2, tokens)
    assert re.fullmatch(rf"TTFT [\d.,]+ ms, {counted}, stop", summary(recording))


async def test_the_endpoints_own_count_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "labkit.engine.openai")
    await ask(streams(*HELLO))
    assert "'prompt_tokens': 19, 'completion_tokens': 10" in caplog.text


async def test_a_slow_start_is_waited_for() -> None:
    async def slow(call: Call) -> None:
        await asyncio.sleep(0.3)
        await streams(*HELLO)(call)

    assert text_of(await ask(slow, timeout_s=PATIENCE_S)) == ["Hello", ", wörld"]


@pytest.mark.parametrize(
    "answer", [hangs, streams(then=hangs), streams(ROLE, says("a"), says("b"), then=hangs)]
)
@pytest.mark.parametrize("leave", [TokenStream.close, TokenStream.cancel])
async def test_a_reader_that_leaves_disconnects_the_endpoint(
    answer: Responder, leave: Callable[[TokenStream], None]
) -> None:
    async with upstream(answer) as far, engine(far.url) as near:
        stream = near.submit(GenerateRequest(prompt="hi"))
        await until(lambda: far.posts, "the request has come")
        await asyncio.sleep(0.05)
        assert not far.posts[0].disconnected.is_set()
        leave(stream)
        async with asyncio.timeout(PATIENCE_S):
            await far.posts[0].disconnected.wait()
        events = await collect(stream)
        if leave is TokenStream.cancel:
            assert isinstance(events[-1], Finished) and events[-1].reason == "cancelled"
        await until(lambda: not near._tasks, "its task ends")


async def test_a_stalled_reader_stops_the_reading() -> None:
    count = 40_000
    count_sent = 0

    async def talks(call: Call) -> None:
        nonlocal count_sent
        await call.head()
        for count_sent in range(count):
            await call.send(says(f"{count_sent} "))
        await call.send(END, DONE)
        await call.end()

    async with upstream(talks) as far, engine(far.url) as near:
        stream = near.submit(GenerateRequest(prompt="hi"))
        await until(lambda: stream.produced >= HIGH_WATER - 1, "the buffer fills")
        assert await settled(lambda: count_sent) < count / 2
        assert stream.produced < HIGH_WATER
        async with asyncio.timeout(100):
            events = [event async for event in stream]
    assert text_of(events) == [f"{n} " for n in range(count)]
    assert stream.peak <= HIGH_WATER
    assert isinstance(events[-1], Finished)


async def test_the_pace_holds_the_tokens_back_and_can_be_tuned() -> None:
    async with upstream(streams(*[says("a")] * 5, END, DONE)) as far, engine(far.url) as near:
        near.tune(interval_ms=20)
        begin = time.monotonic_ns()
        stream = near.submit(GenerateRequest(prompt="hi", stamps=True))
        times = [e.stamps.queued for e in await collect(stream) if isinstance(e, Token) and e.stamps]
        assert times[-1] - begin >= 4 * 0.02 * 1e9 * 0.9
        with pytest.raises(InvalidRequest):
            near.tune(speed=3)


async def test_sampled_is_when_the_chunk_was_read() -> None:
    begin = time.monotonic_ns()
    events = await ask(streams(*HELLO), GenerateRequest(prompt="hi", stamps=True))
    stamps = [event.stamps for event in events if isinstance(event, Token)]
    assert len(stamps) == 2
    assert all(s is not None and begin < s.sampled <= s.queued for s in stamps)


async def test_a_connection_is_used_again() -> None:
    async with upstream(streams(*HELLO)) as far, engine(far.url) as near:
        for _ in range(3):
            await collect(near.submit(GenerateRequest(prompt="hi")))
        assert len(far.posts) == 3
        assert far.connections == 1


async def test_each_loop_has_its_own_connections() -> None:
    async with upstream(streams(*HELLO)) as far, engine(far.url) as near:

        async def elsewhere() -> list[str]:
            return text_of(await collect(near.submit(GenerateRequest(prompt="hi"))))

        for _ in range(2):
            thread = LoopThread("labkit-elsewhere")
            try:
                there = asyncio.wrap_future(thread.submit(elsewhere()))
                here, away = await asyncio.gather(elsewhere(), there)
                assert len(near._clients) == 2
            finally:
                await asyncio.to_thread(thread.close)
            assert here == away == ["Hello", ", wörld"]
        await elsewhere()
        assert len(near._clients) == 1, "those of loops that have ended are forgotten"


async def test_closing_the_engine_ends_its_streams() -> None:
    async with upstream(streams(ROLE, says("a"), then=hangs)) as far, engine(far.url) as near:
        stream = near.submit(GenerateRequest(prompt="hi"))
        await until(lambda: stream.produced, "it has begun")
        near.close()
        near.close()
        *_, last = await collect(stream)
        assert isinstance(last, Failed)
        assert last.code == "engine_failed"
        async with asyncio.timeout(PATIENCE_S):
            await far.posts[0].disconnected.wait()
        with pytest.raises(EngineFailed, match="closed"):
            near.submit(GenerateRequest(prompt="hi"))


async def test_every_interface_carries_it(interface: str) -> None:
    async with upstream(streams(*HELLO)) as far, engine(far.url) as near:
        with thread_server(interface, near) as server:
            async with connect(interface, server) as client:
                recording = await client.record(GenerateRequest(prompt="hi"))
            await asyncio.to_thread(server.stop)
    assert recording.text == "Hello, wörld"
    assert isinstance(recording.end, Finished)
    assert recording.end.pieces == 2
