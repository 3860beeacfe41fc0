"""Events and requests to and from bytes: JSON for the HTTP-borne interfaces, protobuf for gRPC.

Encoding is the last thing that a server does before it hands bytes to its transport, so this is where
a token's `written` stamp is set.
"""

import time
from collections.abc import Sequence
from typing import Any

import msgspec

from labkit.events import Answer, Event, Failed, Finished, GenerateRequest, Stamps, Started, Token
from labkit.proto import inference_pb2 as pb

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
        msgspec.DecodeError: not JSON, or not an event.
    """
    return _event_decoder.decode(data)


def events_from_json(data: bytes | str) -> list[Event]:
    """Decode a list of events; otherwise as `event_from_json`."""
    return _events_decoder.decode(data)


def answer_to_json(answer: Answer) -> bytes:
    now = time.monotonic_ns()
    for token in answer.tokens:
        if token.stamps is not None:
            token.stamps.written = now
    return _encoder.encode(answer)


def answer_from_json(data: bytes) -> Answer:
    """Decode a whole answer.

    Raises:
        msgspec.DecodeError: not JSON, or not an answer.
    """
    return _answer_decoder.decode(data)


def request_to_dict(request: GenerateRequest) -> dict[str, Any]:
    """The fields that differ from their defaults: what needs to travel."""
    return request.model_dump(exclude_defaults=True)


def request_to_proto(request: GenerateRequest) -> pb.GenerateRequest:
    return pb.GenerateRequest(**request_to_dict(request))


def request_from_proto(message: pb.GenerateRequest) -> GenerateRequest:
    """Build a request from the fields that are set.

    Raises:
        InvalidRequest: a field is missing or out of range.
    """
    fields = {field.name: value for field, value in message.ListFields()}
    if "stop" in fields:
        fields["stop"] = list(fields["stop"])
    return GenerateRequest.parse(fields)


def group_to_proto(group: Sequence[Event]) -> pb.GenerateReply:
    return pb.GenerateReply(events=[_event_to_proto(event) for event in group])


def group_from_proto(reply: pb.GenerateReply) -> list[Event]:
    return [_event_from_proto(event) for event in reply.events]


def _event_to_proto(event: Event) -> pb.Event:
    match event:
        case Token(id, text, None):
            return pb.Event(id=id, token=pb.Token(text=text))
        case Token(id, text, Stamps() as stamps):
            stamps.written = time.monotonic_ns()
            return pb.Event(id=id, token=pb.Token(text=text, stamps=pb.Stamps(**msgspec.structs.asdict(stamps))))
        case Started(id, request_id, model, prompt_tokens):
            started = pb.Started(request_id=request_id, model=model, prompt_tokens=prompt_tokens)
            return pb.Event(id=id, started=started)
        case Finished(id, reason, completion_tokens):
            return pb.Event(id=id, finished=pb.Finished(reason=reason, completion_tokens=completion_tokens))
        case Failed(id, code, message):
            return pb.Event(id=id, failed=pb.Failed(code=code, message=message))
    raise TypeError(f"not an event: {event!r}")


def _event_from_proto(event: pb.Event) -> Event:
    match event.WhichOneof("kind"):
        case "token":
            stamps = None
            if event.token.HasField("stamps"):
                sent = event.token.stamps
                stamps = Stamps(sent.sampled, sent.queued, sent.flushed, sent.written)
            return Token(event.id, event.token.text, stamps)
        case "started":
            sent_start = event.started
            return Started(event.id, sent_start.request_id, sent_start.model, sent_start.prompt_tokens)
        case "finished":
            # msgspec checks the reason as it does on the way in from JSON.
            fields = {"type": "finished", "id": event.id, "reason": event.finished.reason}
            return msgspec.convert({**fields, "completion_tokens": event.finished.completion_tokens}, Finished)
        case "failed":
            return Failed(event.id, event.failed.code, event.failed.message)
    raise ValueError("an event of no known kind")
