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
OPTIONAL = ("temperature", "top_p", "top_k", "seed", "stop", "ignore_eos")
TEXT_PARTS = ("text", "output_text")
MAX_MESSAGE = 300

Content = str | list[Any] | dict[str, Any] | None
"""A text, or parts as Mistral has them: `{"type": "text", "text": "…"}`, and others for thoughts."""


class Delta(msgspec.Struct):
    """The text that a chat chunk adds. The first chunk has a role and no content."""

    content: Content = None


class Choice(msgspec.Struct):
    """The only answer in a chunk. A chat has `delta`, a plain completion `text`.

    PHP writes an object with nothing in it, such as the last `delta`, as `[]`.
    """

    delta: Delta | list[Any] | None = None
    text: Content = None
    finish_reason: Any = None
    error: Any = None

    @property
    def content(self) -> str:
        content = (self.delta.content if isinstance(self.delta, Delta) else None) or self.text
        return content if isinstance(content, str) else _joined(content)

    @property
    def reason(self) -> str:
        """Why the answer ended; "" while it goes on. Some wrap it: `{"type": "stop"}`."""
        reason = self.finish_reason
        return str((reason.get("type") if isinstance(reason, dict) else reason) or "")


class CompletionChunk(msgspec.Struct):
    """One event of an answer. With `usage`, `choices` is empty or null.

    An error comes as `error`, in the chunk or its choice, or is the chunk: `message`, `detail`.
    """

    choices: list[Choice] | None = None
    usage: Any = None
    error: Any = None
    message: Any = None
    detail: Any = None

    @classmethod
    def parse(cls, data: str) -> "CompletionChunk":
        """Decode an event's data; unknown fields are ignored.

        Raises:
            ValueError: not JSON, or not a chunk.
        """
        return msgspec.json.decode(data, type=cls)

    @property
    def is_error(self) -> bool:
        """Whether a chunk without choices is the error itself."""
        return isinstance(self.message or self.detail, str)


def _joined(content: Content) -> str:
    """The text in a list of parts, or in one part."""
    parts = content if isinstance(content, list) else [content or ""]
    texts = [part if isinstance(part, str) else _part_text(part) for part in parts]
    return "".join(texts)


def _part_text(part: Any) -> str:
    text = part.get("text") if isinstance(part, dict) and part.get("type", "text") in TEXT_PARTS else None
    return text if isinstance(text, str) else ""


class Model(msgspec.Struct):
    id: str


class Models(msgspec.Struct):
    """The answer to `GET /models`."""

    data: list[Model]


def first_model(text: str) -> str:
    """The id of the first model in the answer to `GET /models`, which some endpoints give as a bare list.

    Raises:
        ValueError, IndexError: there is none.
    """
    models = msgspec.json.decode(text, type=Models | list[Model])
    return (models.data if isinstance(models, Models) else models)[0].id


def payload(request: GenerateRequest, model: str, api: Api, limit: str = "max_tokens") -> dict[str, Any]:
    """The request as OpenAI's API has it, with as few fields as say what it asks.

    The `limit` is called `max_tokens`; some servers know no other word and would ignore it. OpenAI's
    reasoning models refuse that one, and their refusal names `max_completion_tokens`.

    What the request leaves at its default or off is left out: there are endpoints that refuse `temperature`
    beside `top_p`, or any but their own temperature, or `seed`. `top_k` and `ignore_eos` are extensions of
    vLLM and SGLang.
    """
    asked = request.model_dump(exclude_defaults=True)
    body: dict[str, Any] = {name: asked[name] for name in OPTIONAL if name in asked}
    body |= {"model": model, "stream": True, limit: request.max_tokens}
    if api == "chat":
        body["messages"] = [{"role": "user", "content": request.prompt}]
    else:
        body["prompt"] = request.prompt
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
