"""The share of the cores that others used: a neighbour's work counts; one's own and children's does not."""

import os
import shlex
import subprocess
import sys
from collections import namedtuple
from collections.abc import Iterator

import pytest

from labkit.figures import quiet
from labkit.figures.quiet import Neighbours

SPIN = "import time\nwhile time.process_time() < 0.5: pass"


class Clock:
    """A machine of two cores whose times the test sets."""

    def __init__(self) -> None:
        self.now_s = self.busy_s = self.own_s = 0.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("labkit.figures.quiet.time.monotonic", lambda: clock.now_s)
    monkeypatch.setattr(quiet, "_cores", lambda: [0, 1])
    monkeypatch.setattr(quiet, "_cpu_s_of_others", lambda: clock.busy_s - clock.own_s)
    return clock


def test_own_work_is_not_the_neighbours(clock: Clock) -> None:
    neighbours = Neighbours()
    assert neighbours.share() == 0
    clock.now_s, clock.busy_s, clock.own_s = 10.0, 12.0, 6.0
    assert neighbours.seconds() == 10
    assert neighbours.share() == pytest.approx(0.3)


def test_counters_that_do_not_agree_stay_within_bounds(clock: Clock) -> None:
    neighbours = Neighbours()
    clock.now_s, clock.own_s = 1.0, 0.1
    assert neighbours.share() == 0
    clock.busy_s = 9.0
    assert neighbours.share() == 1


@pytest.fixture
def child() -> Iterator["subprocess.Popen[str]"]:
    code = f"{SPIN}\nprint('done', flush=True)\ninput()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        yield child


def test_the_work_of_children_is_own_work_before_and_after_their_end(child: "subprocess.Popen[str]") -> None:
    before_s = quiet._own_cpu_s()
    assert child.stdout is not None
    assert child.stdout.readline() == "done\n"
    alive_s = quiet._own_cpu_s() - before_s
    child.communicate("\n")
    ended_s = quiet._own_cpu_s() - before_s
    assert 0.4 < alive_s <= ended_s


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system pins no process to a core")
def test_cores_that_this_process_may_not_use_do_not_count() -> None:
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert quiet._cores() == [min(allowed)]
    finally:
        os.sched_setaffinity(0, allowed)


def test_a_guests_time_is_counted_once_and_steal_is() -> None:
    times = namedtuple("times", "user nice system idle iowait steal guest guest_nice")
    core = times(user=5, nice=1, system=2, idle=100, iowait=10, steal=3, guest=4, guest_nice=1)
    assert quiet._busy_s(core) == 5 + 1 + 2 + 3


def test_the_work_of_a_process_that_is_no_child_is_the_neighbours() -> None:
    """The shell ends at once, so the process that it leaves is nobody's child here."""
    before_s = quiet._cpu_s_of_others()
    script = f"{shlex.quote(sys.executable)} -c {shlex.quote(SPIN)} &"
    subprocess.run(script, shell=True, stdout=subprocess.PIPE, check=True)  # reads to the end of the spinning
    assert quiet._cpu_s_of_others() - before_s > 0.3
