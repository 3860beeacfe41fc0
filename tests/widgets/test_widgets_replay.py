"""A recorded run played into a view: order, pace, stop, and once more."""

import threading
import time
from collections import deque
from pathlib import Path

import pytest
from fake_page import wait_until
from support import PATIENCE_S, assert_unless_busy

from labkit.engine import trace
from labkit.engine.trace import Arrived, Iteration, Moved, Record
from labkit.figures.quiet import Neighbours
from labkit.widgets import replay
from labkit.widgets.player import _playing

RUN: list[Record] = [
    Arrived(100.0, 0, "story 0", 10, 40, 20.0),
    Moved(100.0, 0, "decode"),
    *(Iteration(100 + 0.01 * i, 100.01 + 0.01 * i, 0, 1, 0, 0, 10 + i, 1, 0, [0]) for i in range(40)),
    Moved(100.4, 0, "finished"),
]


class Reel:
    """A view that remembers what was put in since it was cleared."""

    def __init__(self) -> None:
        self.records: deque[Record] = deque()
        self.cleared = 0

    def put(self, record: Record) -> None:
        self.records.append(record)

    def clear(self) -> None:
        self.cleared += 1
        self.records.clear()


def test_a_replay_puts_every_record_in_order_at_the_pace_it_was_made(tmp_path: Path) -> None:
    trace.save(RUN, tmp_path / "run.jsonl")
    seconds, neighbours = [], Neighbours()
    for speed in (1.0, 20.0):
        reel = Reel()
        began = time.monotonic()
        replay(trace.load(tmp_path / "run.jsonl"), reel, speed).wait(PATIENCE_S)
        seconds.append(time.monotonic() - began)
        assert (list(reel.records), reel.cleared) == (RUN, 1)
    assert_unless_busy(neighbours, seconds[0] > 3 * seconds[1], f"seconds at speeds 1 and 20: {seconds}")


def test_a_replay_can_be_stopped_and_played_again() -> None:
    reel = Reel()
    first = replay(RUN, reel, speed=0.01)
    wait_until(lambda: len(reel.records) >= 2)
    with pytest.raises(TimeoutError, match="still playing"):
        first.wait(0.01)
    second = replay(RUN, reel, speed=1000)
    assert repr(first) == "<replay, over>"
    second.wait(PATIENCE_S)
    assert list(reel.records) == RUN
    third = replay(RUN, reel, speed=0.01)
    third.stop()
    third.stop()
    assert not _playing
    assert not [thread for thread in threading.enumerate() if thread.name == "labkit-replay"]


def test_a_replay_that_cannot_be_is_an_error_in_the_caller(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="speed must be positive, not 0"):
        replay(RUN, Reel(), speed=0)
    (tmp_path / "bad.jsonl").write_text("{}\n", encoding="utf-8")
    with pytest.raises(ValueError, match="line 1"):
        replay(trace.load(tmp_path / "bad.jsonl"), Reel())


def test_a_recording_from_before_the_prefix_cache_is_read(tmp_path: Path) -> None:
    trace.save(RUN, tmp_path / "new.jsonl")
    old = (tmp_path / "new.jsonl").read_text(encoding="utf-8").replace(',"cached":0', "")
    (tmp_path / "old.jsonl").write_text(old, encoding="utf-8")
    assert "cached" not in old and list(trace.load(tmp_path / "old.jsonl")) == list(RUN)
