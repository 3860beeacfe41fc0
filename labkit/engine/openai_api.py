"""OpenAI's completion API on the wire, as every compatible server speaks it; no network here.

Chunks of a chat: https://platform.openai.com/docs/api-reference/chat-streaming, of a plain completion:
https://platform.openai.com/docs/api-reference/completions.
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Literal

import msgspec

from labkit.events import GenerateRequest

Api = Literal["chat", "completions"]

PATHS: dict[Api, str] = {"chat": "chat/completions", "completions": "completions"}
DONE = "[DONE]"
MAX_MESSAGE = 300


class Delta(msgspec.Struct):
    """What a chat chunk adds; the first has a role and no content."""

    content: str | None = None


class Choice(msgspec.Struct):
    """`delta` is a chat's, `text` a plain completion's."""

    delta: Delta | None = None
    text: str | None = None
    finish_reason: str | None = None

    @property
    def content(self) -> str:
        return (self.delta.content if self.delta else self.text) or ""


class Usage(msgspec.Struct):
    """The server's own count of tokens."""

    prompt_tokens: int = 0
    completion_tokens: int = 0


class Chunk(msgspec.Struct):
    """One event of an answer: in that with the usage, `choices` are empty or null; an error comes alone."""

    choices: list[Choice] | None = None
    usage: Usage | None = None
    error: Any = None

    @classmethod
    def parse(cls, data: str) -> "Chunk":
        """Decode an event's data; fields that are not needed are passed over.

        Raises:
            ValueError: not JSON, or not a chunk.
        """
        return msgspec.json.decode(data, type=cls)


class Model(msgspec.Struct):
    id: str


class Models(msgspec.Struct):
    """The answer to `GET /models`."""

    data: list[Model]


def payload(request: GenerateRequest, model: str, api: Api) -> dict[str, Any]:
    """The request in OpenAI's words.

    `max_tokens` is what every server knows; some do not know `max_completion_tokens` and would pass over the
    limit. OpenAI's reasoning models know only the latter. `top_k` and `ignore_eos` are extensions of vLLM and
    SGLang, which OpenAI refuses; they are sent if the request sets them.
    """
    body: dict[str, Any] = {
        "model": model,
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "seed": request.seed,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if api == "chat":
        body["messages"] = [{"role": "user", "content": request.prompt}]
    else:
        body["prompt"] = request.prompt
    if request.stop:
        body["stop"] = request.stop
    if request.top_k:
        body["top_k"] = request.top_k
    if request.ignore_eos:
        body["ignore_eos"] = True
    return body


def said(text: str) -> str:
    """The message in the JSON of an error, or else the text."""
    try:
        return message(json.loads(text))
    except ValueError:
        return message(text)


def message(error: Any) -> str:
    """An error's message as one line of bounded length, in whichever of the usual forms the error is."""
    for key in ("error", "message", "detail"):
        if isinstance(error, dict):
            error = error.get(key) or error
    return " ".join(str(error).split())[:MAX_MESSAGE]


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds that `Retry-After` asks for, as a number or as a date (RFC 9110, 10.2.3); None without one."""
    text = headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None
