"""A server in a process of its own ends with its parent, and an interrupt of the parent does not end it."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import psutil
import pytest
from support import PATIENCE_S, ask, assert_unless_busy, assert_whole, connect, outcomes, until

import labkit
from labkit.errors import StartError
from labkit.figures.quiet import Neighbours
from labkit.launch.process import ProcessServer

ENDLESS = "scripted:tokens=60000,interval_ms=5"

# A signal may arrive after Python's check for signals but before read() waits; then Python handles it only
# after the read. So the program does not wait in one long read().
PARENT = """
import select, sys, labkit
server = labkit.serve(sys.argv[1], "scripted:tokens=60000,interval_ms=5", isolation="process")
try:
    print(server.pid, server.url, flush=True)
    while not select.select([sys.stdin], [], [], 0.1)[0]:
        pass
except KeyboardInterrupt:
    print("interrupted", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(params=["sse", "grpc"])
def parent(request: pytest.FixtureRequest) -> Iterator["tuple[subprocess.Popen[str], psutil.Process, str]"]:
    """A program that serves in a subprocess; yields the program, its child, and the child's URL."""
    program = subprocess.Popen(
        [sys.executable, "-c", PARENT, request.param],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert program.stdin and program.stdout
    with program:
        try:
            pid, url = program.stdout.readline().split()
            yield program, psutil.Process(int(pid)), url
        finally:
            program.kill()


def ends(child: psutil.Process, within_s: float = PATIENCE_S) -> bool:
    """Whether the process ends within so many seconds."""
    end = time.monotonic() + within_s
    while child.is_running() and child.status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


Parent = tuple["subprocess.Popen[str]", psutil.Process, str]


def interface_at(url: str) -> str:
    return "grpc" if url.startswith("grpc") else "sse"


async def test_child_ends_when_its_parent_is_killed(parent: Parent) -> None:
    program, child, url = parent
    async with connect(interface_at(url), url) as client:
        task = asyncio.create_task(client.record(ask(60_000)))
        await asyncio.sleep(0.2)
        program.send_signal(signal.SIGKILL)
        (end,) = await outcomes([task])
    assert not (isinstance(end, labkit.Recording) and isinstance(end.end, labkit.Finished))
    assert ends(child)


async def test_child_ends_when_its_parent_does(parent: Parent) -> None:
    program, child, _ = parent
    assert program.stdin
    program.stdin.close()
    assert program.wait(PATIENCE_S) == 0
    assert ends(child)


async def test_interrupt_of_the_parent_does_not_reach_the_child(parent: Parent) -> None:
    program, child, url = parent
    assert program.stdout
    os.killpg(program.pid, signal.SIGINT)
    assert program.stdout.readline() == "interrupted\n"
    async with connect(interface_at(url), url) as client:
        assert_whole(await client.record(ask(5)), 5)
    assert child.is_running()


async def test_stop_ends_the_process_and_its_streams(interface: str) -> None:
    seconds, neighbours = [], Neighbours()
    for _ in range(3):
        with labkit.serve(interface, ENDLESS, isolation="process") as server:
            assert isinstance(server, ProcessServer) and server.pid
            child = psutil.Process(server.pid)
            async with connect(interface, server) as client:
                tasks = [asyncio.create_task(client.record(ask(60_000))) for _ in range(3)]
                await asyncio.sleep(0.1)
                start = time.monotonic()
                await asyncio.to_thread(server.stop)
                seconds.append(time.monotonic() - start)
                for end in await outcomes(tasks):
                    assert not (isinstance(end, labkit.Recording) and isinstance(end.end, labkit.Finished))
            assert ends(child, 0)
            server.stop()
            assert not server.running
            if seconds[-1] < 1:
                return
    assert_unless_busy(neighbours, False, f"seconds to stop: {seconds}")


async def test_server_whose_child_dies_is_stopped_and_starts_again() -> None:
    with labkit.serve("sse", ENDLESS, isolation="process") as server:
        assert isinstance(server, ProcessServer) and server.pid
        port = server.port
        psutil.Process(server.pid).kill()
        await until(lambda: not server.running, "the server notices that its process has ended")
        assert repr(server) == "<sse server, stopped>"
        with pytest.raises(StartError, match="not running"):
            server.tune(interval_ms=1)
        server.start()
        assert server.port == port
        async with connect("sse", server) as client:
            assert_whole(await client.record(ask(5)), 5)
