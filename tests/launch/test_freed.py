"""What a server was made of is freed once it has stopped: its service, its engine and its loops."""

import gc
import weakref
from asyncio import AbstractEventLoop
from contextlib import ExitStack
from typing import Any

import pytest
from support import ask, thread_server

from labkit import background
from labkit.launch import threaded
from labkit.launch.threaded import ThreadServer

QUICK = "scripted:tokens=3,interval_ms=0"


@pytest.fixture
def loops(monkeypatch: pytest.MonkeyPatch) -> "weakref.WeakSet[AbstractEventLoop]":
    """The loops of all threads that start from here on, as long as they exist."""
    made: weakref.WeakSet[AbstractEventLoop] = weakref.WeakSet()
    make = background.new_event_loop

    def recorded() -> AbstractEventLoop:
        loop = make()
        made.add(loop)
        return loop

    monkeypatch.setattr(background, "new_event_loop", recorded)
    return made


def run_once(server: ThreadServer) -> "list[weakref.ref[Any]]":
    """Start, ask and stop a server; return references to what must not outlive it."""
    with server:
        server.ask(ask(3))
        return [weakref.ref(server.service), weakref.ref(server.service.engine)]


@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside another"])
def test_stopped_server_is_freed(
    interface: str, beside: bool, loops: "weakref.WeakSet[AbstractEventLoop]"
) -> None:
    with ExitStack() as stack:
        other = stack.enter_context(thread_server(interface, QUICK)) if beside else None
        before = len(loops)
        parts = [part for _ in range(3) for part in run_once(thread_server(interface, QUICK))]
        gc.collect()
        assert [part() for part in parts if part() is not None] == []
        assert len(loops) == before, "a loop that has ended is held, 0.25 MiB each"
        assert other is None or len(other.ask(ask(3)).events) == 5, "the other server still answers"


def test_restarted_server_frees_what_it_was(
    interface: str, loops: "weakref.WeakSet[AbstractEventLoop]"
) -> None:
    server = thread_server(interface, QUICK)
    parts = [part for _ in range(3) for part in run_once(server)]
    gc.collect()
    assert [part() for part in parts if part() is not None] == []
    assert not loops


def test_first_server_of_a_process_is_freed_too(interface: str) -> None:
    """The first start freezes what exists for the garbage collector, and must not freeze the server."""
    threaded.spare_the_collector.cache_clear()
    parts = run_once(thread_server(interface, QUICK))
    gc.collect()
    assert [part() for part in parts if part() is not None] == []
