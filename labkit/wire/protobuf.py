"""Events and requests to and from protobuf, for gRPC."""

import time
from collections.abc import Sequence

import msgspec

from labkit.errors import ConnectionLost, InvalidRequest
from labkit.events import Event, Failed, Finished, GenerateRequest, Stamps, Started, Token
from labkit.wire.native import request_to_dict
from labkit.wire.proto import inference_pb2 as pb


def request_to_proto(request: GenerateRequest) -> pb.GenerateRequest:
    """As protobuf.

    Raises:
        InvalidRequest: a field that protobuf cannot hold.
    """
    try:
        return pb.GenerateRequest(**request_to_dict(request))
    except (ValueError, TypeError) as error:
        raise InvalidRequest(str(error)) from error


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
    reply = pb.GenerateReply()
    for event in group:
        _fill(reply.events.add(), event)
    return reply


def group_from_proto(reply: pb.GenerateReply) -> list[Event]:
    """The events of one reply, at least one.

    Raises:
        ConnectionLost: no event, or one of no known kind.
    """
    try:
        events = [_event_from_proto(event) for event in reply.events]
    except (msgspec.MsgspecError, ValueError) as error:
        raise ConnectionLost(f"the server's reply is none of labkit's: {error}") from error
    if not events:
        raise ConnectionLost("the server's reply is none of labkit's: no events")
    return events


def _fill(message: pb.Event, event: Event) -> None:
    # Setting fields one by one takes half the time of nested constructors.
    message.id = event.id
    match event:
        case Token():
            message.token.text = event.text
            if event.stamps is not None:
                event.stamps.written = time.monotonic_ns()
                message.token.stamps.CopyFrom(pb.Stamps(**msgspec.structs.asdict(event.stamps)))
        case Started():
            message.started.request_id = event.request_id
            message.started.model = event.model
            message.started.prompt_tokens = event.prompt_tokens
        case Finished():
            message.finished.reason = event.reason
            message.finished.completion_tokens = event.completion_tokens
        case Failed():
            message.failed.code = event.code
            message.failed.message = event.message
        case _:
            raise TypeError(f"no protobuf form for {type(event).__name__}")


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
            return msgspec.convert(
                {**fields, "completion_tokens": event.finished.completion_tokens}, Finished
            )
        case "failed":
            return Failed(event.id, event.failed.code, event.failed.message)
    raise ValueError("an event of no known kind")
