"""What the streams of all workloads have in common: a request's fields, ids, the beginning, pieces, the end.

A stream is `Started`, any number of pieces, and exactly one terminal event, `Finished` or `Failed`. Ids count
from 0 without a gap within a stream. The same id is SSE's `id:`, the WebSocket sequence number and the field
of the gRPC message.

Events are immutable values, so one event can go to many readers. The times of flushing and writing belong to
the write, a `labkit.events.group.Group`.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

import msgspec
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from labkit.errors import InvalidRequest


def _whole(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = Annotated[int, BeforeValidator(_whole)]
"""A whole number; 3.0 is one too, as JSON Schema has it and as some languages write 3."""

RequestId = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:-]{1,64}$")]
Reason = Literal["stop", "length", "cancelled"]


class Request(BaseModel):
    """What a client asks for; a workload adds its own fields.

    Every server refuses a field that is unknown or out of range. `stamps` asks that the times of each hop
    (`Stamps`) travel with every piece.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    stamps: bool = False
    request_id: RequestId | None = None

    @classmethod
    def parse(cls, fields: Any) -> Self:
        """Build a request from a decoded message, whose types count: `"3"` is no number, and 0 is no `false`.

        In a query every value is text. There a plain `model_validate` reads `3` and `true`.

        Raises:
            InvalidRequest: a field is missing, unknown, of the wrong type or out of range.
        """
        try:
            return cls.model_validate(fields, strict=True)
        except ValidationError as error:
            raise InvalidRequest(explain(error.errors())) from None


def explain(errors: Sequence[Any]) -> str:
    """Name pydantic's first five errors and their places in one line, without the input's values."""
    return "; ".join(f"{_place(error['loc'])}: {error['msg']}" for error in errors[:5])


def _place(location: Sequence[Any]) -> str:
    place = ".".join(str(part)[:40] for part in location if part not in ("body", "query"))
    return place or "request"


class Stamps(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """When a piece passed each hop on the server's side, in ns of that host's `time.monotonic_ns`.

    The engine sets `sampled` when it chooses the piece, the stream `queued` when it takes it. `flushed` (the
    policy let the write go) and `written` (the server handed it to its transport) are 0 until a write carries
    the piece. On one host the client reads the same clock, so it can measure one-way lag.
    """

    sampled: int = 0
    queued: int = 0
    flushed: int = 0
    written: int = 0


UNCOUNTED = -1


class Numbered(msgspec.Struct, tag_field="type", frozen=True, omit_defaults=True, gc=False):
    """Any event; `id` is its number in the stream."""

    id: int


class Started(Numbered, tag="started", frozen=True, omit_defaults=False):
    """The server accepted the request and the model has begun. `prompt_tokens` counts a text's prompt."""

    request_id: str
    model: str
    prompt_tokens: int = 0


class Piece(Numbered, frozen=True, kw_only=True):
    """A part of an answer; each kind of piece belongs to a workload. `stamps` are there if asked for."""

    stamps: Stamps | None = None


class Finished(Numbered, tag="finished", frozen=True):
    """The answer has ended.

    `stop`: the model ended it, or met a stop string. `length`: it ran to its limit. `cancelled`: the client
    cancelled it. `tokens` is 0 where each piece is one token; else a piece is a chunk of several tokens, and
    `tokens` counts them all, or is `UNCOUNTED`.
    """

    reason: Reason
    pieces: int
    tokens: int = 0


class Failed(Numbered, tag="failed", frozen=True):
    """The answer broke off; `code` is one of `labkit.errors`."""

    code: str
    message: str


Terminal = Finished | Failed
