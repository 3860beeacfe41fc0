"""Answers in every shape that endpoints give them: what is whole finishes, what is cut off never does."""

import asyncio
import json

import pytest
from standin import (
    DONE,
    END,
    ROLE,
    USAGE,
    Call,
    Responder,
    ask,
    breaks,
    chunk,
    hangs,
    says,
    text_chunk,
    text_of,
)
from support import PATIENCE_S

from labkit.engine import openai_answer
from labkit.events import UNCOUNTED, Failed, Finished

END_S = 0.1
PAUSE = 3 * END_S
SHORT_S = 8 * END_S  # the patience where a body stays open; elsewhere nothing waits for it

HOLDS = hangs  # the body stays open, and nothing more comes
CUT = breaks  # the connection breaks

He, llo = says("He"), says("llo")
STOP = END
PING = b": keep-alive\n\n"


def data(value: object) -> bytes:
    """An event with this JSON, or this text."""
    text = value if isinstance(value, str) else json.dumps(value)
    return f"data: {text}\n\n".encode()


def last(text: str, reason: str) -> bytes:
    """A chunk with text and a finish_reason."""
    return chunk(json.dumps({"content": text}), json.dumps(reason))


def ends(reason: object) -> bytes:
    return chunk("{}", json.dumps(reason))


def parts(*content: object) -> bytes:
    return chunk(json.dumps({"content": content}))


def counts(usage: object) -> bytes:
    return data({"choices": [], "usage": usage})


async def pings(call: Call) -> None:
    """A comment every now and then, for ever."""
    while not call.disconnected.is_set():
        await call.send(PING)
        await asyncio.sleep(END_S / 3)


async def until_close(call: Call) -> None:
    """An answer as of HTTP/1.0, whose body has no length: the connection's end is the body's."""
    call.writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n")


Part = bytes | float | Responder
Whole = list[Part]

FINISHED: dict[str, tuple[Whole, str]] = {
    "OpenAI": ([ROLE, He, llo, STOP, USAGE, DONE], "stop"),
    "OpenAI, cut short by the limit": ([ROLE, He, llo, ends("length"), DONE], "length"),
    "vLLM: text in the last chunk": ([ROLE, He, last("llo", "length"), DONE], "length"),
    "completions": ([text_chunk("He"), text_chunk("llo"), text_chunk("", '"stop"'), DONE], "stop"),
    "no [DONE]": ([He, llo, STOP], "stop"),
    "no [DONE], text in the last chunk": ([He, last("llo", "stop")], "stop"),
    "no [DONE], body without a length": ([until_close, He, llo, STOP, CUT], "stop"),
    "a reason, then the connection breaks": ([He, llo, STOP, CUT], "stop"),
    "a reason, then the body stays open": ([He, llo, STOP, HOLDS], "stop"),
    "a reason, then comments for ever": ([He, llo, STOP, pings], "stop"),
    "[DONE], then the body stays open": ([He, llo, STOP, DONE, HOLDS], "stop"),
    "[DONE], then comments for ever": ([He, llo, STOP, DONE, pings], "stop"),
    "[DONE], then the connection breaks": ([He, llo, STOP, DONE, CUT], "stop"),
    "[DONE], then more": ([He, llo, STOP, DONE, He, data({"error": "late"})], "stop"),
    "a reason on the first of two chunks": ([last("He", "stop"), PAUSE, llo, DONE], "stop"),
    "a reason on every chunk": ([last("He", "stop"), PAUSE, PING, PAUSE, last("llo", "stop"), DONE], "stop"),
    "a reason on every chunk, another at the end": (
        [last("He", "stop"), llo, ends("length"), DONE],
        "length",
    ),
    "a reason on the first of two, no [DONE]": ([last("He", "stop"), PAUSE, llo], "stop"),
    "an empty reason until the end": ([last("He", ""), last("llo", ""), STOP, DONE], "stop"),
    "TGI: eos_token": ([He, llo, ends("eos_token"), DONE], "stop"),
    "TGI: stop_sequence": ([He, llo, ends("stop_sequence"), DONE], "stop"),
    "Together: eos": ([He, llo, ends("eos"), DONE], "stop"),
    "Anthropic: end_turn": ([He, llo, ends("end_turn"), DONE], "stop"),
    "Anthropic: max_tokens": ([He, llo, ends("max_tokens"), DONE], "length"),
    "Gemini: STOP": ([He, llo, ends("STOP"), DONE], "stop"),
    "Gemini: MAX_TOKENS": ([He, llo, ends("MAX_TOKENS"), DONE], "length"),
    "Cohere: COMPLETE": ([He, llo, ends("COMPLETE"), DONE], "stop"),
    "Mistral: model_length": ([He, llo, ends("model_length"), DONE], "length"),
    "TGI of watsonx: TOKEN_LIMIT": ([He, llo, ends("TOKEN_LIMIT"), DONE], "length"),
    "eos_found": ([He, llo, ends("eos_found"), DONE], "stop"),
    "PHP: an empty delta as a list": (
        [He, llo, data({"choices": [{"delta": [], "finish_reason": "stop"}]}), DONE],
        "stop",
    ),
    "an event keepalive with a message": (
        [He, b'event: keepalive\ndata: {"message": "alive"}\n\n', llo, STOP, DONE],
        "stop",
    ),
    "a reason in an object": ([He, llo, ends({"type": "length", "length": 2}), DONE], "length"),
    "usage with null counts": ([He, llo, STOP, counts({"prompt_tokens": None}), DONE], "stop"),
    "usage with float counts": ([He, llo, STOP, counts({"completion_tokens": 2.0}), DONE], "stop"),
    "usage with counts as text": ([He, llo, STOP, counts({"completion_tokens": "2"}), DONE], "stop"),
    "usage with a truth value": ([He, llo, STOP, counts({"completion_tokens": True}), DONE], "stop"),
    "usage beyond every wire": ([He, llo, STOP, counts({"completion_tokens": 2**63}), DONE], "stop"),
    "usage as a number": ([He, llo, STOP, counts(2), DONE], "stop"),
    "[DONE] with a space": ([He, llo, STOP, b"data: [DONE] \n\n", pings], "stop"),
    "CRLF": ([part.replace(b"\n", b"\r\n") for part in (He, llo, STOP, DONE)], "stop"),
    "no space after the colon": (
        [part.replace(b"data: ", b"data:") for part in (He, llo, STOP, DONE)],
        "stop",
    ),
    "OpenRouter: comments before and between": ([PING, PAUSE, He, PING, llo, STOP, DONE], "stop"),
    "empty data": ([He, b"data:\n\n", b"data: \n\n", llo, STOP, DONE], "stop"),
    "data null": ([He, data("null"), llo, STOP, DONE], "stop"),
    "a ping as text": ([He, data("ping"), llo, STOP, DONE], "stop"),
    "Anthropic: an event ping": ([He, b'event: ping\ndata: {"type": "ping"}\n\n', llo, STOP, DONE], "stop"),
    "Azure: filter results first": (
        [data({"choices": [], "prompt_filter_results": []}), He, llo, STOP],
        "stop",
    ),
    "null for choices, delta and error": (
        [data({"choices": None}), data({"choices": [{"delta": None}], "error": None}), He, llo, STOP, DONE],
        "stop",
    ),
    "Mistral: content as parts": (
        [
            parts({"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}),
            parts({"type": "text", "text": "He"}, {"type": "text", "text": "llo"}),
            *[STOP, DONE],
        ],
        "stop",
    ),
    "content as texts": ([parts("He"), parts("l", "lo"), STOP, DONE], "stop"),
    "content as one part": ([chunk('{"content":{"type":"text","text":"Hello"}}'), STOP, DONE], "stop"),
    "thoughts beside the text": ([chunk('{"reasoning_content":"hm"}'), He, llo, STOP, DONE], "stop"),
}

FAILED: dict[str, tuple[Whole, str]] = {
    "the body ends without a reason": ([He, llo], "without a finish_reason"),
    "[DONE] without a reason": ([He, llo, DONE], "without a finish_reason"),
    "[DONE] without a reason, the body stays open": ([He, llo, DONE, HOLDS], "without a finish_reason"),
    "half a chunk": ([He, llo, STOP[:40]], "without a finish_reason"),
    "the connection breaks": ([He, llo, CUT], "broke off"),
    "silence": ([He, llo, HOLDS], "not a byte in"),
    "a reason on every chunk, then the connection breaks": (
        [last("He", "stop"), last("llo", "stop"), CUT],
        "broke",
    ),
    "a reason on every chunk, then silence": (
        [last("He", "stop"), last("llo", "stop"), HOLDS],
        "127.0.0.1",
    ),
    "a reason on every chunk, then comments": (
        [last("He", "stop"), last("llo", "stop"), pings],
        "without [DONE]",
    ),
    "text after the reason, then the connection breaks": ([last("He", "stop"), llo, CUT], "broke off"),
    "text after the reason, body without a length": (
        [until_close, ends("stop"), He, llo, CUT],
        "without [DONE]",
    ),
    "content_filter": ([He, llo, ends("content_filter"), DONE], "content_filter"),
    "an unknown reason": ([He, llo, ends("tired"), DONE], "'tired'"),
    "OpenRouter: an error in a chunk": (
        [
            He,
            llo,
            data({"error": {"code": 502, "message": "lost it"}, "choices": [{"finish_reason": "error"}]}),
        ],
        "lost it",
    ),
    "an error in a choice": (
        [He, llo, data({"choices": [{"error": {"message": "lost it"}}]}), HOLDS],
        "/v1: lost it",
    ),
    "vLLM: error, then [DONE]": ([He, llo, data({"error": {"message": "lost it"}}), DONE], "lost it"),
    "vLLM of old: a bare error": (
        [He, llo, data({"object": "error", "message": "lost it", "code": 500}), HOLDS],
        "lost it",
    ),
    "TGI: an error with its type": (
        [He, llo, data({"error": "lost it", "error_type": "generation"})],
        "lost it",
    ),
    "FastAPI: detail": ([He, llo, data({"detail": "lost it"}), DONE], "lost it"),
    "event: error with JSON": (
        [He, llo, b'event: error\ndata: {"message": "lost it"}\n\n', HOLDS],
        "lost it",
    ),
    "event: error without a word": ([He, llo, b"event: error\ndata:\n\n", HOLDS], "it tells an error"),
    "event: error with text": ([He, llo, b"event: error\ndata: lost it\n\n", HOLDS], "lost it"),
    "Anthropic: event: error": (
        [He, llo, b'event: error\ndata: {"type":"error","error":{"message":"lost it"}}\n\n', STOP, DONE],
        "lost it",
    ),
    "llama.cpp of old: a field error": ([He, llo, b'error: {"code":500,"message":"lost it"}\n\n'], "lost it"),
    "JSON without data:": ([He, llo, b'{"error": {"message": "lost it"}}'], "lost it"),
    "JSON without data:, then [DONE]": ([He, llo, b'{"error": {"message": "lost it"}}\n\n', DONE], "lost it"),
    "JSON without data:, then the connection breaks": ([He, llo, b'{"error": "lost it"}\n', CUT], "lost it"),
    "text in place of a chunk": ([He, llo, data("upstream has lost it"), DONE], "lost it"),
    "a chunk that is no JSON": ([He, llo, data("{not json}"), STOP, DONE], "no chunk"),
    "content that is no text": ([He, llo, chunk('{"content":5}'), STOP, DONE], "no chunk"),
}


def plays(shape: Whole) -> Responder:
    """Answer with these parts: bytes, pauses in seconds, what the connection does. Else the body ends."""

    async def answer(call: Call) -> None:
        chunked = until_close not in shape
        if chunked:
            await call.head()
        for part in shape:
            if isinstance(part, float):
                await asyncio.sleep(part)
            elif isinstance(part, bytes) and chunked:
                await call.send(part)
            elif isinstance(part, bytes):
                call.writer.write(part)
            elif part is CUT and not chunked:
                call.writer.close()
            else:
                await part(call)
        if chunked and isinstance(shape[-1], bytes):
            await call.end()

    return answer


def patience_s(shape: Whole) -> float:
    return SHORT_S if shape[-1] in (HOLDS, pings) else PATIENCE_S


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setattr(openai_answer, "END_S", END_S)


@pytest.mark.parametrize(("shape", "reason"), FINISHED.values(), ids=FINISHED.keys())
async def test_a_whole_answer_finishes(shape: Whole, reason: str) -> None:
    events = await ask(plays(shape), timeout_s=patience_s(shape), model="any")
    assert isinstance(events[-1], Finished), events[-1]
    assert events[-1].reason == reason
    assert events[-1].tokens == UNCOUNTED or 0 < events[-1].tokens < 100
    assert type(events[-1].tokens) is int
    assert "".join(text_of(events)) == "Hello"


@pytest.mark.parametrize(("shape", "words"), FAILED.values(), ids=FAILED.keys())
async def test_an_answer_that_broke_off_fails_and_says_why(shape: Whole, words: str) -> None:
    events = await ask(plays(shape), timeout_s=patience_s(shape), model="any")
    assert isinstance(events[-1], Failed), events[-1]
    assert words in events[-1].message
    assert "http://127.0.0.1:" in events[-1].message
    assert "".join(text_of(events)) == "Hello"
