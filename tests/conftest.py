"""Fixtures of all tests: no test may leave a thread or a child process behind, or use a key."""

import gc
import threading
import time
from collections.abc import Iterator

import psutil
import pytest
from support import PATIENCE_S

from labkit import interfaces

pytest.register_assert_rewrite("core_stage")  # its runner's checks report values as a test's do


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--bits-differ", action="store_true", help="run as on a machine that refuses batch_invariant"
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--bits-differ"):
        from labkit.models import invariance

        invariance.depends_on_company = lambda model, rows: "the option --bits-differ"


def _leaks(threads: set[threading.Thread], children: set[int]) -> list[str]:
    """The threads and child processes that run now and are not among these."""
    here = set(threading.enumerate()) - threads
    left = [f"thread {thread.name}" for thread in here if thread.name.startswith("labkit-")]
    for child in psutil.Process().children(recursive=True):
        if child.pid in children:
            continue
        try:
            if child.status() != psutil.STATUS_ZOMBIE:
                left.append(f"process {child.pid}: {' '.join(child.cmdline())}")
        except psutil.NoSuchProcess:
            pass
    return left


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """Fail a test after which a `labkit-*` thread or a child process still runs."""
    threads = set(threading.enumerate())
    children = {child.pid for child in psutil.Process().children(recursive=True)}
    yield
    end = time.monotonic() + PATIENCE_S
    while (left := _leaks(threads, children)) and time.monotonic() < end:
        gc.collect()
        time.sleep(0.02)
    assert not left, f"left behind: {', '.join(left)}"


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """No key of whoever runs the tests reaches a stand-in of an endpoint."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture(scope="session")
def bits_kept() -> None:
    """Skips a test where an engine with `batch_invariant` does not start."""
    from invariance import refusal  # not above: most tests need no torch

    if cause := refusal():
        pytest.skip(f"batch_invariant is refused here: {cause} changes bits")


@pytest.fixture(params=interfaces.names())
def interface(request: pytest.FixtureRequest) -> str:
    """Each interface that has a server and a client, from any package that is installed."""
    return str(request.param)


@pytest.fixture
def quick_pump(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Makes live views send a snapshot every 0.2 s, so that their pump ends soon; fails if it does not."""
    from labkit.widgets import live_view
    from labkit.widgets.pump import PUMP

    monkeypatch.setattr(live_view, "SNAPSHOT_EVERY_S", 0.2)
    yield
    end = time.monotonic() + PATIENCE_S
    while PUMP.running:
        assert time.monotonic() < end, "the pump still runs"
        time.sleep(0.01)
