"""Events and requests to and from protobuf, for gRPC.

A request's message has the name of its class. An event's message is the field of `Event` that has the event's
tag, and its fields have the names of the event's. So a workload adds messages to the proto, and nothing here.
"""

from typing import Any, TypeVar, get_args

import msgspec
from google.protobuf.message import Message

from labkit.errors import ConnectionLost, InvalidRequest
from labkit.events import Event, Group, Request
from labkit.wire.native import request_to_dict
from labkit.wire.proto import inference_pb2 as pb

R = TypeVar("R", bound=Request)

_COMMON = ("id", "stamps")


def _plan(kind: Any) -> tuple[str, tuple[str, ...]]:
    """An event's tag, and its fields that its own message holds."""
    fields = tuple(name for name in kind.__struct_fields__ if name not in _COMMON)
    return kind.__struct_config__.tag, fields


_PLANS = {kind: _plan(kind) for kind in get_args(Event)}


def request_to_proto(request: Request) -> Message:
    """Build the message of this request's workload.

    Raises:
        InvalidRequest: a field that protobuf cannot hold.
    """
    kind = getattr(pb, type(request).__name__)
    try:
        message: Message = kind(**request_to_dict(request))
    except (ValueError, TypeError) as error:
        raise InvalidRequest(str(error)) from error
    return message


def request_from_proto(kind: type[R], message: Message) -> R:
    """Build a request of a workload from the fields that are set.

    Raises:
        InvalidRequest: a field is missing or out of range.
    """
    fields = {field.name: value for field, value in message.ListFields()}
    repeated = [field.name for field in message.DESCRIPTOR.fields if field.is_repeated]
    return kind.parse({**fields, **{name: list(fields[name]) for name in repeated if name in fields}})


def group_to_proto(group: Group) -> pb.GenerateReply:
    """Build one reply with the group's events, and their stamps if the request asked for them."""
    reply = pb.GenerateReply()
    for event in group.written():
        tag, fields = _PLANS[type(event)]
        message = reply.events.add()
        message.id = event.id
        # Setting fields one by one takes half the time of nested constructors.
        body = getattr(message, tag)
        for name in fields:
            setattr(body, name, getattr(event, name))
        if (stamps := getattr(event, "stamps", None)) is not None:
            message.stamps.CopyFrom(pb.Stamps(**msgspec.structs.asdict(stamps)))
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


_FIELDS = dict(_PLANS.values())


def _event_from_proto(message: pb.Event) -> Event:
    tag = message.WhichOneof("kind")
    if tag is None:
        raise ValueError("an event of no known kind")
    body = getattr(message, tag)
    values = {name: getattr(body, name) for name in _FIELDS[tag]}
    if message.HasField("stamps"):
        times = message.stamps
        values["stamps"] = (times.sampled, times.queued, times.flushed, times.written)
    return msgspec.convert({"type": tag, "id": message.id, **values}, Event)  # type: ignore[no-any-return]
