"""Events and requests to bytes and back: nothing is lost in JSON or in protobuf."""

import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from labkit.errors import ConnectionLost, InvalidRequest
from labkit.events import (
    UNCOUNTED,
    Answer,
    Event,
    Failed,
    Finished,
    GenerateRequest,
    Group,
    Stamps,
    Started,
    Token,
)
from labkit.wire import native, protobuf
from labkit.wire.proto import generate
from labkit.wire.proto import inference_pb2 as pb

ids = st.integers(0, 2**53)
# Everything that UTF-8 can carry, which leaves out lone surrogates.
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
times = st.integers(0, 2**63 - 1)
stamps = st.builds(Stamps, times, times, times, times)
reasons = st.sampled_from(["stop", "length", "cancelled"])
tokens = st.builds(Token, ids, texts, stamps=st.none() | stamps)
events = st.one_of(
    st.builds(Started, ids, texts, texts, st.integers(0, 2**31)),
    tokens,
    st.builds(Finished, ids, reasons, ids),
    st.builds(Failed, ids, texts, texts),
)
requests = st.builds(
    GenerateRequest,
    prompt=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=50),
    max_tokens=st.integers(1, 65_536),
    temperature=st.floats(0, 2),
    top_k=st.integers(0, 65_536),
    top_p=st.floats(0, 1, exclude_min=True),
    seed=st.integers(0, 2**53 - 1),
    stop=st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=64), max_size=4),
    ignore_eos=st.booleans(),
    stamps=st.booleans(),
    reader_tps=st.floats(0, 10_000, exclude_min=True),
    request_id=st.none() | st.from_regex(r"[A-Za-z0-9_.:-]{1,64}", fullmatch=True),
)


@given(events)
def test_event_survives_json(event: Event) -> None:
    data = native.to_json(event)
    assert b"\n" not in data and b"\r" not in data, "a line break would end a server-sent event's data"
    assert native.event_from_json(data) == event


@given(st.lists(events, min_size=1, max_size=5))
def test_group_survives_protobuf(events: list[Event]) -> None:
    reply = pb.GenerateReply.FromString(protobuf.group_to_proto(Group(events)).SerializeToString())
    assert protobuf.group_from_proto(reply) == events


@given(st.lists(events, max_size=5))
def test_list_survives_json(group: list[Event]) -> None:
    data = b"[" + b",".join(native.to_json(event) for event in group) + b"]"
    assert native.events_from_json(data) == group


@given(st.builds(Answer, texts, texts, texts, reasons, ids, ids, st.lists(tokens, max_size=5)))
def test_answer_survives_json(answer: Answer) -> None:
    assert native.answer_from_json(Answer, native.to_json(answer)) == answer


@given(requests)
def test_request_survives_both(request: GenerateRequest) -> None:
    assert GenerateRequest.parse(native.request_to_dict(request)) == request
    message = pb.GenerateRequest.FromString(protobuf.request_to_proto(request).SerializeToString())
    assert protobuf.request_from_proto(GenerateRequest, message) == request


def test_a_write_has_its_own_stamps_and_leaves_the_event_as_it_was() -> None:
    token = Token(1, "x", stamps=Stamps(5, 6))
    early, late = Group([token], flushed_ns=7), Group([token], flushed_ns=8)
    for group in (early, late):
        [travelling] = group.written()
        assert isinstance(travelling, Token) and travelling.stamps is not None
        assert (travelling.stamps.sampled, travelling.stamps.queued) == (5, 6)
        assert travelling.stamps.flushed == group.flushed_ns
        assert group.flushed_ns < travelling.stamps.written <= time.monotonic_ns()
        [from_proto] = protobuf.group_from_proto(protobuf.group_to_proto(group))
        assert isinstance(from_proto, Token) and from_proto.stamps is not None
        assert from_proto.stamps.flushed == group.flushed_ns
    assert token == Token(1, "x", stamps=Stamps(5, 6))


def test_a_write_without_stamps_carries_the_events_themselves() -> None:
    events: list[Event] = [Started(0, "r", "m", 3), Token(1, "x")]
    assert Group(events).written() is events


@pytest.mark.parametrize("event", [Started(0, "r", "m"), Token(1, "x"), Finished(2, "stop", 1), Stamps(1)])
def test_events_cannot_be_changed(event: Event) -> None:
    with pytest.raises(AttributeError):
        event.id = 9  # type: ignore[misc]


@pytest.mark.parametrize(("tokens", "told"), [(0, 2), (40, 40), (UNCOUNTED, None)])
def test_answer_and_its_events_are_one(tokens: int, told: int | None) -> None:
    end = Finished(3, "length", 2, tokens)
    stream: list[Event] = [Started(0, "r", "m", 3), Token(1, "a"), Token(2, "b"), end]
    answer = Answer.from_events(stream)
    assert answer == Answer("r", "m", "ab", "length", 3, told, stream[1:3])  # type: ignore[arg-type]
    assert answer.events() == stream


START = Started(0, "r", "m", 3)


@pytest.mark.parametrize("broken", [[], [START], [START, Failed(1, "c", "m")]])
def test_broken_stream_is_no_answer(broken: list[Event]) -> None:
    with pytest.raises(ValueError, match=r"answer|unpack"):
        Answer.from_events(broken)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b'{"type":"token"}',
        b'{"type":"other","id":1}',
        b'{"type":"token","id":"1","text":""}',
        b'{"type":"token","id":1,"text":"\xff"}',
        b'{"type":"finished","id":1,"reason":"because","pieces":1}',
    ],
)
def test_what_is_no_event(data: bytes) -> None:
    with pytest.raises(ConnectionLost):
        native.event_from_json(data)


def test_unknown_field_of_a_newer_server_is_passed_over() -> None:
    assert native.event_from_json(b'{"type":"token","id":1,"text":"a","colour":"red"}') == Token(1, "a")


def test_message_of_no_known_kind_is_refused() -> None:
    with pytest.raises(ConnectionLost, match="no events"):
        protobuf.group_from_proto(pb.GenerateReply())
    with pytest.raises(ConnectionLost, match="no known kind"):
        protobuf.group_from_proto(pb.GenerateReply(events=[pb.Event(id=1)]))
    reply = pb.GenerateReply(events=[pb.Event(id=1, finished=pb.Finished(reason="because"))])
    with pytest.raises(ConnectionLost, match="because"):
        protobuf.group_from_proto(reply)


def test_fields_left_out_of_the_message_take_the_defaults_of_the_request() -> None:
    assert protobuf.request_from_proto(GenerateRequest, pb.GenerateRequest(prompt="x")) == GenerateRequest(
        prompt="x"
    )
    with pytest.raises(InvalidRequest, match="prompt"):
        protobuf.request_from_proto(GenerateRequest, pb.GenerateRequest())


def test_zero_that_was_set_is_no_default() -> None:
    message = pb.GenerateRequest(prompt="x", temperature=0.0, top_k=0, seed=0, ignore_eos=False)
    assert protobuf.request_from_proto(GenerateRequest, message).temperature == 0
    with pytest.raises(InvalidRequest, match="max_tokens"):
        protobuf.request_from_proto(GenerateRequest, pb.GenerateRequest(prompt="x", max_tokens=0))
    with pytest.raises(InvalidRequest, match="top_p"):
        protobuf.request_from_proto(GenerateRequest, pb.GenerateRequest(prompt="x", top_p=0))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (GenerateRequest, pb.GenerateRequest),
        (Started, pb.Started),
        (Token, pb.Token),
        (Finished, pb.Finished),
        (Failed, pb.Failed),
        (Stamps, pb.Stamps),
    ],
)
def test_every_field_is_in_the_proto(kind: Any, message: Any) -> None:
    names = (
        set(kind.model_fields)
        if issubclass(kind, BaseModel)
        else set(kind.__struct_fields__) - {"id", "stamps"}
    )
    assert {field.name for field in message.DESCRIPTOR.fields} == names


def test_every_event_is_in_the_proto() -> None:
    kinds = {field.name for field in pb.Event.DESCRIPTOR.oneofs_by_name["kind"].fields}
    assert kinds == {kind.__struct_config__.tag for kind in (Started, Token, Finished, Failed)}


def test_generated_code_is_fresh(tmp_path: Path) -> None:
    generate.generate(tmp_path)
    for name in ("inference_pb2.py", "inference_pb2.pyi"):
        fresh, committed = tmp_path / name, generate.HERE / name
        assert fresh.read_text(encoding="utf-8") == committed.read_text(encoding="utf-8"), (
            "run python -m labkit.wire.proto.generate"
        )
