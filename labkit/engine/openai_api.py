"""OpenAI's completion API on the wire, as every compatible server speaks it, without the network.

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
    """The text that a chat chunk adds. The first chunk has a role and no content."""

    content: str | None = None


class Choice(msgspec.Struct):
    """The only answer in a chunk. A chat has `delta`, a plain completion `text`."""

    delta: Delta | None = None
    text: str | None = None
    finish_reason: str | None = None

    @property
    def content(self) -> str:
        return (self.delta.content if self.delta else self.text) or ""


class Usage(msgspec.Struct):
    """The endpoint's own count of tokens."""

    prompt_tokens: int = 0
    completion_tokens: int = 0


class CompletionChunk(msgspec.Struct):
    """One event of an answer. With `usage`, `choices` is empty or null; `error` comes alone."""

    choices: list[Choice] | None = None
    usage: Usage | None = None
    error: Any = None

    @classmethod
    def parse(cls, data: str) -> "CompletionChunk":
        """Decode an event's data; unknown fields are ignored.

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
    """The request as OpenAI's API has it.

    Every server knows `max_tokens`. Some do not know `max_completion_tokens` and would ignore the limit;
    OpenAI's reasoning models know only that one. `top_k` and `ignore_eos` are extensions of vLLM and SGLang,
    which OpenAI refuses, so they are sent only if the request sets them.
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


def message_in(text: str) -> str:
    """The message of an error's JSON; where it is no JSON, the text itself."""
    try:
        return message(json.loads(text))
    except ValueError:
        return message(text)


def message(error: Any) -> str:
    """An error's message as one line of at most MAX_MESSAGE characters, from any of the usual forms."""
    for key in ("error", "message", "detail"):
        if isinstance(error, dict):
            error = error.get(key) or error
    return " ".join(str(error).split())[:MAX_MESSAGE]


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """The seconds that `Retry-After` asks for, a number or a date (RFC 9110, 10.2.3); None without it."""
    text = headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None
