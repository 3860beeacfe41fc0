"""A second workload fits: one file, its line in the union and its messages; nothing else is edited.

The test copies labkit, adds the file, makes the two edits, and speaks through the rest as it is.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent

WORKLOAD = '''
"""The countdown workload: a number is asked, smaller numbers and progress are the pieces."""

import msgspec

from labkit.events.common import Finished, Piece, Request


class CountdownRequest(Request):
    """From which number to count down."""

    start: int


class Count(Piece, tag="count", frozen=True):
    """One number."""

    number: int


class Progress(Piece, tag="progress", frozen=True):
    """How much of the way is done, from 0 to 1."""

    share: float


class Countdown(msgspec.Struct):
    """A whole countdown."""

    numbers: list[int]

    @classmethod
    def from_events(cls, events):
        assert isinstance(events[-1], Finished)
        return cls([event.number for event in events if isinstance(event, Count)])
'''

MESSAGES = """
message CountdownRequest {
  uint64 start = 1;
  optional bool stamps = 2;
  optional string request_id = 3;
}

message Count {
  uint64 number = 1;
}

message Progress {
  double share = 1;
}
"""

PROGRAM = '''
"""An engine, an SSE route and a client of the countdown, made of labkit's parts."""

import asyncio
import json
import sys
from typing import Annotated

import httpx
from msgspec.structs import astuple
from fastapi import Query, Request

import labkit
from labkit.events import Group, Stamps
from labkit.events.countdown import Count, Countdown, CountdownRequest, Progress
from labkit.stream import Stream
from labkit.web.app import application, caller
from labkit.web.eventresponse import EventStream
from labkit.web.listener import AsgiListener
from labkit.wire import native, protobuf
from labkit.wire.eventstream import Parser
from labkit.wire.proto import inference_pb2 as pb


class Counter:
    name = "counter"
    failed = None

    def submit(self, request):
        stream = Stream(request.request_id, stamped=request.stamps)
        stream.started(self.name)
        for number in range(request.start, 0, -1):
            stamps = Stamps(1, 2) if stream.stamped else None
            stream.put(Count(stream.next_id, number, stamps=stamps))
            stream.put(Progress(stream.next_id, 1 - (number - 1) / request.start, stamps=stamps))
        stream.finish("stop")
        return stream

    def tune(self, **knobs): ...

    def close(self): ...


def create(service):
    app = application(service, "countdown")

    @app.get("/countdown")
    async def countdown(query: Annotated[CountdownRequest, Query()], request: Request) -> EventStream:
        return EventStream(service.generate(query, caller(request)))

    return AsgiListener(app)


def ask(url, start, **fields):
    body = httpx.get(f"{url}/countdown", params={"start": start, **fields}, trust_env=False)
    if body.is_error:
        return body.status_code, []
    return [event.data for event in Parser().feed(body.content)], body.content.count(b"event: ")


def in_protobuf(events):
    reply = protobuf.group_to_proto(Group(events))
    return protobuf.group_from_proto(pb.GenerateReply.FromString(reply.SerializeToString()))


with labkit.serve(create, Counter(), flush="tokens:2") as server:
    lines, blocks = ask(server.url, 3)
    events = [native.event_from_json(line) for line in lines]
    stamped = [native.event_from_json(line) for line in ask(server.url, 1, stamps=True)[0]]
    refused, _ = ask(server.url, "x")
request = CountdownRequest(start=3)
message = protobuf.request_to_proto(request)
print(json.dumps({
    "lines": [json.loads(line) for line in lines],
    "blocks": blocks,
    "numbers": Countdown.from_events(events).numbers,
    "answer": native.answer_from_json(Countdown, native.to_json(Countdown.from_events(events))).numbers,
    "same in protobuf": in_protobuf(events) == events and in_protobuf(stamped) == stamped,
    "same request": protobuf.request_from_proto(CountdownRequest, message) == request,
    "stamps": [sum(time > 0 for time in astuple(event.stamps)) for event in stamped[1:-1]],
    "refused": refused,
}))
'''


def add_below(path: Path, line: str, addition: str) -> None:
    """Add lines below the one line that begins so."""
    lines = re.compile(f"^{re.escape(line)}.*\n", re.MULTILINE)
    text, places = lines.subn(lambda match: match[0] + addition, path.read_text(encoding="utf-8"))
    assert places == 1, f"{line!r} stands at {places} places in {path.name}"
    path.write_text(text, encoding="utf-8")


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the program prints in a house that the countdown has joined."""
    folder = tmp_path_factory.mktemp("house")
    unused = shutil.ignore_patterns("__pycache__", "weights")
    shutil.copytree(ROOT / "labkit", folder / "labkit", ignore=unused)
    (folder / "labkit/events/countdown.py").write_text(WORKLOAD, encoding="utf-8")
    union = folder / "labkit/events/union.py"
    add_below(union, "    | Token", "    | Count | Progress  # countdown\n")
    add_below(union, "from labkit.events.common", "from labkit.events.countdown import Count, Progress\n")
    proto = folder / "labkit/wire/proto/inference.proto"
    add_below(proto, "    Failed failed", "    Count count = 6;\n    Progress progress = 7;\n")
    proto.write_text(proto.read_text(encoding="utf-8") + MESSAGES, encoding="utf-8")
    (folder / "program.py").write_text(PROGRAM, encoding="utf-8")
    run(folder, "-m", "labkit.wire.proto.generate")
    return json.loads(run(folder, "program.py"))


def run(folder: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    command = [sys.executable, *arguments]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_its_pieces_come_in_order_through_a_server(outcome: Any) -> None:
    started, *pieces, finished = outcome["lines"]
    assert started["type"] == "started"
    assert [piece.get("number", piece.get("share")) for piece in pieces] == pytest.approx(
        [3, 1 / 3, 2, 2 / 3, 1, 1]
    )
    assert [event["id"] for event in outcome["lines"]] == list(range(8))
    assert (finished["type"], finished["reason"], finished["pieces"]) == ("finished", "stop", 6)


def test_they_fold_into_an_answer(outcome: Any) -> None:
    assert outcome["numbers"] == outcome["answer"] == [3, 2, 1]


def test_they_have_stamps_and_survive_protobuf(outcome: Any) -> None:
    assert outcome["stamps"] == [4, 4]
    assert outcome["same in protobuf"] and outcome["same request"]


def test_a_bad_request_of_it_is_refused(outcome: Any) -> None:
    assert outcome["refused"] == 422
