"""The request and the events that every interface carries: the vocabulary of the whole lab.

A stream is `Started`, any number of `Token`, and exactly one terminal event, `Finished` or `Failed`.
Ids count from 0 without a gap within a stream. The same id is SSE's `id:`, the WebSocket sequence
number and the field of the gRPC message.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

import msgspec
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from labkit.errors import InvalidRequest

MAX_PROMPT_CHARS = 8_192
MAX_TOKENS = 65_536

StopString = Annotated[str, Field(min_length=1, max_length=64)]
RequestId = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:-]{1,64}$")]


class GenerateRequest(BaseModel):
    """One prompt and how to answer it; a value out of range is refused by every server alike.

    `temperature` 0 is greedy, `top_k` 0 and `top_p` 1 are off. The same `seed` gives the same text.
    `ignore_eos` goes on to `max_tokens` even where the model would end. `stamps` asks for the time of
    each hop (`Stamps`) to travel with every token. `reader_tps` is how fast the reader reads, in tokens per
    second: only a scheduler that looks at readers heeds it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt: str = Field(min_length=1, max_length=MAX_PROMPT_CHARS)
    max_tokens: int = Field(default=128, ge=1, le=MAX_TOKENS)
    temperature: float = Field(default=0.8, ge=0, le=2, allow_inf_nan=False)
    top_k: int = Field(default=0, ge=0, le=65_536)
    top_p: float = Field(default=1.0, gt=0, le=1, allow_inf_nan=False)
    seed: int = Field(default=0, ge=0, lt=2**63)
    stop: list[StopString] = Field(default_factory=list, max_length=4)
    ignore_eos: bool = False
    stamps: bool = False
    reader_tps: float = Field(default=10.0, gt=0, le=10_000, allow_inf_nan=False)
    request_id: RequestId | None = None

    @classmethod
    def parse(cls, fields: dict[str, Any]) -> Self:
        """Build a request from a decoded message.

        Raises:
            InvalidRequest: a field is missing, unknown, of the wrong type or out of range.
        """
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            raise InvalidRequest(explain(error.errors())) from None


def explain(errors: Sequence[Any]) -> str:
    """One line from pydantic's list of errors: where and what, without echoing the values."""
    told = errors[:5]
    places = [[str(part)[:40] for part in e["loc"] if part not in ("body", "query")] for e in told]
    return "; ".join(f"{'.'.join(place)}: {e['msg']}" for place, e in zip(places, told, strict=True))


class Stamps(msgspec.Struct, array_like=True, gc=False):
    """When a token passed each hop on the server's side, in `time.monotonic_ns` of that host.

    `sampled` by the engine, `queued` in its stream, `flushed` by the policy, `written`: handed to the
    transport. On one host the client's clock is the same one, so one-way lag can be measured.
    """

    sampled: int = 0
    queued: int = 0
    flushed: int = 0
    written: int = 0


class Started(msgspec.Struct, tag="started", tag_field="type", gc=False):
    """The request was accepted and the model has begun to read the prompt."""

    id: int
    request_id: str
    model: str
    prompt_tokens: int


class Token(msgspec.Struct, tag="token", tag_field="type", omit_defaults=True, gc=False):
    """One sampled token; `text` is what became readable with it.

    It is empty while a multi-byte character or a possible stop string is unfinished, and for the token
    that ends the text.
    """

    id: int
    text: str
    stamps: Stamps | None = None


class Finished(msgspec.Struct, tag="finished", tag_field="type", gc=False):
    """The answer is complete: the model ended or met a stop string, ran to its limit, or was cancelled."""

    id: int
    reason: Literal["stop", "length", "cancelled"]
    completion_tokens: int


class Failed(msgspec.Struct, tag="failed", tag_field="type", gc=False):
    """The answer broke off; `code` is one of `labkit.errors`."""

    id: int
    code: str
    message: str


Terminal = Finished | Failed
Event = Started | Token | Terminal


class Answer(msgspec.Struct):
    """A whole stream in one piece: what REST returns."""

    request_id: str
    model: str
    text: str
    reason: Literal["stop", "length", "cancelled"]
    prompt_tokens: int
    completion_tokens: int
    tokens: list[Token]

    @classmethod
    def from_events(cls, events: Sequence[Event]) -> "Answer":
        """Fold a finished stream.

        Raises:
            ValueError: the events are not one whole stream that ended in `Finished`.
        """
        started, *tokens, finished = events
        if not isinstance(started, Started) or not isinstance(finished, Finished):
            raise ValueError("an answer needs a stream from `started` to `finished`")
        parts = [event for event in tokens if isinstance(event, Token)]
        return cls(
            request_id=started.request_id,
            model=started.model,
            text="".join(token.text for token in parts),
            reason=finished.reason,
            prompt_tokens=started.prompt_tokens,
            completion_tokens=finished.completion_tokens,
            tokens=parts,
        )

    def events(self) -> list[Event]:
        """The stream that this answer was folded from, with the same ids."""
        started = Started(0, self.request_id, self.model, self.prompt_tokens)
        finished = Finished(len(self.tokens) + 1, self.reason, self.completion_tokens)
        return [started, *self.tokens, finished]
