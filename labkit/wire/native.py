"""Events and requests to and from JSON, for the HTTP-borne interfaces.

Encoding is the last thing that a server does before it hands bytes to its transport, so this is where
a token's `written` stamp is set.
"""

import json
import time
from typing import Any, TypeVar

import msgspec

from labkit.errors import ConnectionLost
from labkit.events import Answer, Event, GenerateRequest, Token

T = TypeVar("T")

_encoder = msgspec.json.Encoder()
_event_decoder: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)
_events_decoder: msgspec.json.Decoder[list[Event]] = msgspec.json.Decoder(list[Event])
_answer_decoder = msgspec.json.Decoder(Answer)


def event_to_json(event: Event) -> bytes:
    if type(event) is Token and event.stamps is not None:
        event.stamps.written = time.monotonic_ns()
    return _encoder.encode(event)


def event_from_json(data: bytes | str) -> Event:
    """Decode one event; fields that it does not know are passed over.

    Raises:
        ConnectionLost: not JSON, or not an event: whoever sent it does not speak labkit's language.
    """
    return _decoded(_event_decoder, data)


def events_from_json(data: bytes | str) -> list[Event]:
    """Decode a list of events; otherwise as `event_from_json`."""
    return _decoded(_events_decoder, data)


def answer_to_json(answer: Answer) -> bytes:
    now = time.monotonic_ns()
    for token in answer.tokens:
        if token.stamps is not None:
            token.stamps.written = now
    return _encoder.encode(answer)


def answer_from_json(data: bytes) -> Answer:
    """Decode a whole answer.

    Raises:
        ConnectionLost: not JSON, or not an answer.
    """
    return _decoded(_answer_decoder, data)


def _decoded(decoder: msgspec.json.Decoder[T], data: bytes | str) -> T:
    try:
        return decoder.decode(data)
    except (msgspec.MsgspecError, ValueError) as error:
        raise ConnectionLost(f"the server's reply is none of labkit's: {error}") from error


def request_to_dict(request: GenerateRequest) -> dict[str, Any]:
    """The fields that differ from their defaults: what needs to travel."""
    return request.model_dump(exclude_defaults=True)


def request_to_json(request: GenerateRequest) -> bytes:
    """As ASCII, so that even text that is no Unicode reaches the server, whose part it is to refuse it."""
    return json.dumps(request_to_dict(request)).encode()
