"""Events, answers and requests to and from labkit's own JSON, for the HTTP-borne interfaces."""

import json
from typing import Any, TypeVar

import msgspec

from labkit.errors import ConnectionLost
from labkit.events import Event, Request

T = TypeVar("T")

_encoder = msgspec.json.Encoder()
_event_decoder: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)
_events_decoder: msgspec.json.Decoder[list[Event]] = msgspec.json.Decoder(list[Event])

to_json = _encoder.encode
"""Encode one event, or a whole answer of any workload, as JSON without a line break."""


def event_from_json(data: bytes | str) -> Event:
    """Decode one event; fields that it does not know are passed over.

    Raises:
        ConnectionLost: not JSON, or not an event: the sender does not speak labkit's language.
    """
    return _decoded(_event_decoder, data)


def events_from_json(data: bytes | str) -> list[Event]:
    """Decode a list of events; otherwise as `event_from_json`."""
    return _decoded(_events_decoder, data)


def answer_from_json(kind: type[T], data: bytes) -> T:
    """Decode a whole answer of a workload; `kind` is its class, such as `labkit.events.Answer`.

    Raises:
        ConnectionLost: not JSON, or not such an answer.
    """
    return _decoded(msgspec.json.Decoder(kind), data)


def _decoded(decoder: "msgspec.json.Decoder[T]", data: bytes | str) -> T:
    try:
        return decoder.decode(data)
    except (msgspec.MsgspecError, ValueError) as error:
        raise ConnectionLost(f"the server's reply is none of labkit's: {error}") from error


def request_to_dict(request: Request) -> dict[str, Any]:
    """The fields that differ from their defaults; only these need to travel."""
    return request.model_dump(exclude_defaults=True)


def request_to_json(request: Request) -> bytes:
    """Encode as ASCII, so that text that is not Unicode reaches the server too; the server refuses it."""
    return json.dumps(request_to_dict(request)).encode()
