"""The engine behind an OpenAI-compatible endpoint, against a stand-in that writes OpenAI's bytes."""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from support import PATIENCE_S, abandoned, connect, free_port, settled, thread_server, until

from labkit.background import LoopThread
from labkit.engine import openai
from labkit.engine.openai import OpenAIEngine
from labkit.engine.openai_api import retry_after_s
from labkit.errors import EngineFailed, InvalidRequest
from labkit.events import Event, Failed, Finished, GenerateRequest, Started, Token
from labkit.stream import HIGH_WATER, TokenStream

MODELS = b'{"object":"list","data":[{"id":"first","object":"model","owned_by":"us"},{"id":"second"}]}'
KEY = "sk-stand-in-0123456789"


def chunk(delta: str, reason: str = "null") -> bytes:
    """A chat chunk as OpenAI writes it."""
    return (
        'data: {"id":"chatcmpl-B9MHDbslfkBeAs8l4bebGdFOJ6PeG","object":"chat.completion.chunk",'
        '"created":1741570283,"model":"gpt-4o-mini-2024-07-18","service_tier":"default",'
        '"system_fingerprint":"fp_44709d6fcb","choices":[{"index":0,"delta":'
        f'{delta},"logprobs":null,"finish_reason":{reason}}}],"usage":null,"obfuscation":"k7Wq"}}\n\n'
    ).encode()


def says(text: str) -> bytes:
    return chunk(json.dumps({"content": text}))


ROLE = chunk('{"role":"assistant","content":"","refusal":null}')
END = chunk("{}", '"stop"')
USAGE = (
    b'data: {"id":"chatcmpl-B9MHDbslfkBeAs8l4bebGdFOJ6PeG","object":"chat.completion.chunk",'
    b'"created":1741570283,"model":"gpt-4o-mini-2024-07-18","service_tier":"default",'
    b'"system_fingerprint":"fp_44709d6fcb","choices":[],"usage":{"prompt_tokens":19,"completion_tokens":10,'
    b'"total_tokens":29,"prompt_tokens_details":{"cached_tokens":0}},"obfuscation":"f"}\n\n'
)
DONE = b"data: [DONE]\n\n"
HELLO = [ROLE, says("Hello"), says(", wörld"), END, USAGE, DONE]


def text_chunk(text: str, reason: str = "null") -> bytes:
    """A chunk of a plain completion as vLLM writes it."""
    choice = f'{{"index":0,"text":{json.dumps(text)},"logprobs":null,"finish_reason":{reason}}}'
    return f'data: {{"id":"cmpl-1","object":"text_completion","choices":[{choice}]}}\n\n'.encode()


@dataclass
class Call:
    """One request to the stand-in, and the answer under way. `gone` is set when its client disconnects."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any
    writer: asyncio.StreamWriter
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    async def head(self, status: int = 200, kind: str = "text/event-stream", **headers: str) -> None:
        lines = [f"HTTP/1.1 {status} Because", f"content-type: {kind}", "transfer-encoding: chunked"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
        await self.writer.drain()

    async def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            await self.writer.drain()

    async def end(self) -> None:
        self.writer.write(b"0\r\n\r\n")
        await self.writer.drain()


Answer = Callable[[Call], Awaitable[None]]


class Upstream:
    """The stand-in: every POST gets the next of `answers`, the last of them again and again."""

    def __init__(self, answers: tuple[Answer, ...]) -> None:
        self.url = ""
        self.calls: list[Call] = []
        self.connections = 0
        self._answers = list(answers)

    @property
    def posts(self) -> list[Call]:
        return [call for call in self.calls if call.method == "POST"]

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                await self._answer(await self._read(reader, writer), reader)
        writer.close()

    async def _read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Call:
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        method, path, _ = first.split()
        self.calls.append(Call(method, path, headers, json.loads(body) if body else None, writer))
        return self.calls[-1]

    async def _answer(self, call: Call, reader: asyncio.StreamReader) -> None:
        watch = asyncio.ensure_future(reader.read(1))
        watch.add_done_callback(lambda task: None if task.cancelled() else call.gone.set())
        if call.method == "GET":
            await call.head(kind="application/json")
            await call.send(MODELS)
            await call.end()
        else:
            await (self._answers.pop(0) if len(self._answers) > 1 else self._answers[0])(call)
        await abandoned(watch)


@asynccontextmanager
async def upstream(*answers: Answer) -> AsyncIterator[Upstream]:
    standing = Upstream(answers)
    server = await asyncio.start_server(standing.connected, "127.0.0.1", 0)
    standing.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    try:
        yield standing
    finally:
        server.close()
        for call in standing.calls:
            call.writer.transport.abort()


def streams(*pieces: bytes, then: Answer | None = None) -> Answer:
    """Answer with an event stream of these pieces; end the body unless `then` says what comes next."""

    async def answer(call: Call) -> None:
        await call.head()
        await call.send(*pieces)
        await (then or Call.end)(call)

    return answer


def refuses(status: int, body: bytes, **headers: str) -> Answer:
    async def answer(call: Call) -> None:
        await call.head(status, "application/json", **headers)
        await call.send(body)
        await call.end()

    return answer


async def hangs(call: Call) -> None:
    await call.gone.wait()


async def breaks(call: Call) -> None:
    call.writer.transport.abort()


@asynccontextmanager
async def engine(url: str, **options: Any) -> AsyncIterator[OpenAIEngine]:
    made = OpenAIEngine(url, **options)
    try:
        yield made
    finally:
        made.close()
        await asyncio.sleep(0.01)


async def collect(stream: TokenStream) -> list[Event]:
    async with asyncio.timeout(PATIENCE_S):
        return [event async for event in stream]


async def ask(answer: Answer, request: GenerateRequest | None = None, **options: Any) -> list[Event]:
    """The events of one request that the stand-in answers so."""
    async with upstream(answer) as far, engine(far.url, **options) as near:
        return await collect(near.submit(request or GenerateRequest(prompt="hi")))


def text_of(events: list[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, Token)]


async def failure(answer: Answer, **options: Any) -> Failed:
    """How the answer failed."""
    *_, last = await ask(answer, **options)
    assert isinstance(last, Failed), last
    return last


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.mark.parametrize("size", [1, 7, 1000, 100_000])
async def test_a_chat_becomes_a_stream_however_its_bytes_are_cut(size: int) -> None:
    whole = b"".join(HELLO)
    pieces = [whole[at : at + size] for at in range(0, len(whole), size)]
    assert await ask(streams(*pieces)) == [
        Started(0, "", "first", 0),
        Token(1, "Hello"),
        Token(2, ", wörld"),
        Finished(3, "stop", 2),
    ]


async def test_a_plain_completion_continues_the_prompt() -> None:
    pieces = [text_chunk(" upon"), text_chunk(" a time"), text_chunk("", '"length"'), DONE]
    async with upstream(streams(*pieces)) as far, engine(far.url, api="completions") as near:
        events = await collect(near.submit(GenerateRequest(prompt="Once", max_tokens=2)))
    assert text_of(events) == [" upon", " a time"]
    assert events[-1] == Finished(3, "length", 2)
    (call,) = far.posts
    assert call.path == "/v1/completions"
    assert call.body["prompt"] == "Once"
    assert "messages" not in call.body


async def test_the_request_travels_in_openais_words_and_extensions_only_if_set() -> None:
    plain = GenerateRequest(prompt="hi", max_tokens=9, temperature=0.5, top_p=0.9, seed=7)
    extended = GenerateRequest(prompt="hi", top_k=40, ignore_eos=True, stop=["\n"])
    async with upstream(streams(*HELLO)) as far, engine(far.url + "/", model="mine:7b") as near:
        await collect(near.submit(plain))
        await collect(near.submit(extended))
    first, second = far.posts
    assert first.path == "/v1/chat/completions"
    assert "authorization" not in first.headers
    assert first.body == {
        "model": "mine:7b",
        "messages": [{"role": "user", "content": "hi"}],
        "max_tokens": 9,
        "temperature": 0.5,
        "top_p": 0.9,
        "seed": 7,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    assert (second.body["top_k"], second.body["ignore_eos"], second.body["stop"]) == (40, True, ["\n"])


async def test_the_first_model_is_asked_for_once_and_a_named_one_never() -> None:
    async with upstream(streams(*HELLO)) as far, engine(far.url) as near:
        for _ in range(2):
            events = await collect(near.submit(GenerateRequest(prompt="hi")))
            assert isinstance(events[0], Started) and events[0].model == "first"
        assert [call.path for call in far.calls if call.method == "GET"] == ["/v1/models"]
        async with engine(far.url, model="second") as named:
            await collect(named.submit(GenerateRequest(prompt="hi")))
    assert [call.body["model"] for call in far.posts] == ["first", "first", "second"]
    assert len(far.calls) == 4


async def test_the_key_is_sent_and_never_shown(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("OPENAI_API_KEY", KEY + "\n")
    echoing = refuses(
        401, json.dumps({"error": {"message": f"Incorrect API key: {KEY}" + "x" * 400}}).encode()
    )
    padded = refuses(500, b"x" * 290 + KEY.encode())
    middle = streams(ROLE, b'data: {"error":{"message":"bad key %b"}}\n\n' % KEY.encode())
    async with upstream(echoing, padded, middle) as far, engine(far.url) as near:
        told = [(await collect(near.submit(GenerateRequest(prompt="hi"))))[-1] for _ in range(3)]
    assert [call.headers["authorization"] for call in far.posts] == [f"Bearer {KEY}"] * 3
    assert isinstance(told[0], Failed)
    assert "environment variable OPENAI_API_KEY" in told[0].message
    assert "[key]" in told[0].message
    assert KEY[:8] not in f"{told} {near!r} {caplog.text}"


def test_a_key_that_no_header_can_carry_is_refused_unshown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-\n123")
    with pytest.raises(
        InvalidRequest, match=r"^OPENAI_API_KEY has characters that no HTTP header can carry$"
    ):
        OpenAIEngine("http://127.0.0.1:1/v1")


@pytest.mark.parametrize("url", ["", "127.0.0.1:8001", "ftp://127.0.0.1/v1", "http://", "http://[::1"])
def test_what_is_no_url_is_refused_with_one_that_is(url: str) -> None:
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
    failed = await failure(refuses(status, body))
    assert failed.id == 0
    assert failed.code == code
    assert says in failed.message
    assert f"HTTP {status}" in failed.message


@pytest.mark.parametrize("lines", [1000, 1_000_000])
async def test_the_endpoints_words_are_one_bounded_line(lines: int) -> None:
    body = json.dumps({"error": {"message": "a word\n" * lines}}).encode()
    failed = await failure(refuses(400, body))
    assert "a word" in failed.message
    assert "\n" not in failed.message
    assert len(failed.message) < 500


@pytest.mark.parametrize("status", [429, 503])
async def test_a_short_retry_after_is_waited_for(status: int) -> None:
    busy = refuses(status, b"{}", retry_after="1")
    loop = asyncio.get_running_loop()
    async with upstream(busy, streams(*HELLO)) as far, engine(far.url) as near:
        begin = loop.time()
        events = await collect(near.submit(GenerateRequest(prompt="hi")))
        assert loop.time() - begin >= 0.95
    assert text_of(events) == ["Hello", ", wörld"]
    assert [event.id for event in events] == [0, 1, 2, 3]
    assert len(far.posts) == 2


async def test_a_long_retry_after_is_told_and_not_waited_for() -> None:
    busy = refuses(429, b'{"error":{"message":"slow down"}}', retry_after="31")
    async with upstream(busy) as far, engine(far.url) as near:
        (last,) = await collect(near.submit(GenerateRequest(prompt="hi")))
    assert isinstance(last, Failed)
    assert last.code == "overloaded"
    assert "slow down" in last.message and "Retry-After: 31 s" in last.message
    assert len(far.posts) == 1


async def test_retries_are_bounded_in_number() -> None:
    async with upstream(refuses(429, b"{}", retry_after="0")) as far, engine(far.url) as near:
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


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (streams(ROLE, says("He"), then=breaks), "broke off"),
        (streams(ROLE, says("He")), "without a finish_reason"),
        (streams(ROLE, says("He"), DONE), "without a finish_reason"),
        (streams(ROLE, says("He"), b'data: {"choices":[{"delta":{"content":"llo'), "without a finish_reason"),
        (streams(ROLE, says("He"), chunk("{}", '"content_filter"'), DONE), "content_filter"),
        (
            streams(says("He"), b'data: {"error":{"message":"out of memory","code":500}}\n\n', DONE),
            "out of mem",
        ),
        (streams(says("He"), b"data: {not json}\n\n", END, DONE), "no chunk"),
        (streams(says("He"), b'data: {"choices":[{"delta":{"content":5}}]}\n\n', END, DONE), "no chunk"),
    ],
)
async def test_an_answer_that_breaks_off_fails_after_what_has_come(answer: Answer, says: str) -> None:
    events = await ask(answer)
    assert text_of(events) == ["He"]
    last = events[-1]
    assert isinstance(last, Failed)
    assert last.code == "engine_failed"
    assert says in last.message


async def test_an_event_without_an_end_is_not_collected_for_ever() -> None:
    async def endless(call: Call) -> None:
        await call.head()
        await call.send(b"data: ")
        while not call.gone.is_set():
            await call.send(b"x" * 65_536)

    assert f"over {openai.MAX_EVENT} bytes" in (await failure(endless)).message


async def test_a_refusal_without_an_end_is_not_collected_for_ever() -> None:
    async def endless(call: Call) -> None:
        await call.head(400)
        while not call.gone.is_set():
            await call.send(b"no " * 20_000)

    assert "HTTP 400: no no no" in (await failure(endless)).message


async def test_an_endpoint_whose_answer_cannot_be_used_is_left() -> None:
    broken = streams(says("He"), b'data: {"error":"out of memory"}\n\n', then=hangs)
    async with upstream(broken) as far, engine(far.url) as near:
        *_, last = await collect(near.submit(GenerateRequest(prompt="hi")))
        assert isinstance(last, Failed)
        async with asyncio.timeout(PATIENCE_S):
            await far.posts[0].gone.wait()


async def test_done_without_a_reason_is_a_failure_even_if_the_body_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(openai, "END_S", 0.05)
    failed = await failure(streams(ROLE, DONE, then=hangs))
    assert "without a finish_reason" in failed.message


@pytest.mark.parametrize("kind", ["application/json", "text/html; charset=utf-8"])
async def test_what_is_no_event_stream_is_said(kind: str) -> None:
    async def answer(call: Call) -> None:
        await call.head(kind=kind)
        await call.send(b'{"message": "cannot stream"}')
        await call.end()

    failed = await failure(answer)
    assert kind in failed.message and "cannot stream" in failed.message


@pytest.mark.parametrize("then", [hangs, breaks, Call.end])
async def test_a_finish_reason_is_an_end_whatever_comes_after(
    then: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openai, "END_S", 0.05)
    events = await ask(streams(ROLE, says("Hello"), END, then=then))
    assert events[-1] == Finished(2, "stop", 1)


async def test_content_in_the_last_chunk_is_not_lost() -> None:
    events = await ask(streams(says("a"), chunk('{"content":"b"}', '"length"'), DONE))
    assert events[1:] == [Token(1, "a"), Token(2, "b"), Finished(3, "length", 2)]


async def test_comments_and_chunks_without_choices_are_passed_over() -> None:
    odd = b': ping\n\ndata: {"choices":null}\n\ndata: {"prompt_filter_results":[]}\n\n'
    assert text_of(await ask(streams(odd, *HELLO))) == ["Hello", ", wörld"]


async def test_the_endpoints_own_count_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "labkit.engine.openai")
    await ask(streams(*HELLO))
    assert "prompt_tokens=19, completion_tokens=10), in 2 chunks" in caplog.text


async def test_a_slow_start_is_waited_for() -> None:
    async def slow(call: Call) -> None:
        await asyncio.sleep(0.3)
        await streams(*HELLO)(call)

    assert text_of(await ask(slow, timeout_s=PATIENCE_S)) == ["Hello", ", wörld"]


@pytest.mark.parametrize("answer", [hangs, streams(then=hangs), streams(ROLE, says("He"), then=hangs)])
async def test_silence_over_the_patience_fails(answer: Answer) -> None:
    failed = await failure(answer, timeout_s=0.2)
    assert failed.code == "engine_failed"
    assert "not a byte in 0.2 s (timeout_s)" in failed.message


async def test_a_server_that_is_not_there_is_named() -> None:
    url = f"http://127.0.0.1:{free_port()}/v1"
    async with engine(url) as near:
        (last,) = await collect(near.submit(GenerateRequest(prompt="hi")))
    assert isinstance(last, Failed)
    assert last.code == "engine_failed"
    assert f"cannot connect to {url}: is the server running?" in last.message


@pytest.mark.parametrize(
    "answer", [hangs, streams(then=hangs), streams(ROLE, says("a"), says("b"), then=hangs)]
)
@pytest.mark.parametrize("leave", [TokenStream.close, TokenStream.cancel])
async def test_a_reader_that_leaves_disconnects_the_endpoint(
    answer: Answer, leave: Callable[[TokenStream], None]
) -> None:
    async with upstream(answer) as far, engine(far.url) as near:
        stream = near.submit(GenerateRequest(prompt="hi"))
        await until(lambda: far.posts, "the request has come")
        await asyncio.sleep(0.05)
        assert not far.posts[0].gone.is_set()
        leave(stream)
        async with asyncio.timeout(PATIENCE_S):
            await far.posts[0].gone.wait()
        events = await collect(stream)
        if leave is TokenStream.cancel:
            assert isinstance(events[-1], Finished) and events[-1].reason == "cancelled"
        await until(lambda: not near._tasks, "its task ends")


async def test_a_reader_that_leaves_while_a_refusal_is_waited_out_is_not_asked_for_again() -> None:
    async with upstream(refuses(429, b"{}", retry_after="1")) as far, engine(far.url) as near:
        stream = near.submit(GenerateRequest(prompt="hi"))
        await until(lambda: far.posts, "the request has come")
        await asyncio.sleep(0.05)
        stream.close()
        await until(lambda: not near._tasks, "its task ends")
        await asyncio.sleep(1.1)
        assert len(far.posts) == 1


async def test_a_reader_who_does_not_read_stops_the_reading() -> None:
    count = 40_000
    sent = 0

    async def talks(call: Call) -> None:
        nonlocal sent
        await call.head()
        for sent in range(count):
            await call.send(says(f"{sent} "))
        await call.send(END, DONE)
        await call.end()

    async with upstream(talks) as far, engine(far.url) as near:
        stream = near.submit(GenerateRequest(prompt="hi"))
        await until(lambda: stream.produced >= HIGH_WATER - 1, "the buffer fills")
        assert await settled(lambda: sent) < count / 2
        assert stream.produced < HIGH_WATER
        async with asyncio.timeout(100):
            events = [event async for event in stream]
    assert text_of(events) == [f"{n} " for n in range(count)]
    assert stream.peak <= HIGH_WATER
    assert isinstance(events[-1], Finished)


async def test_the_pace_holds_the_tokens_back_and_can_be_tuned() -> None:
    async with upstream(streams(*[says("a")] * 5, END, DONE)) as far, engine(far.url) as near:
        near.tune(interval_ms=20)
        stream = near.submit(GenerateRequest(prompt="hi", stamps=True))
        times = [e.stamps.queued for e in await collect(stream) if isinstance(e, Token) and e.stamps]
        assert times[-1] - times[0] >= 4 * 0.02 * 1e9 * 0.9
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
            await far.posts[0].gone.wait()
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
    assert recording.end.completion_tokens == 2
