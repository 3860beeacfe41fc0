"""An engine in a process of its own has the same streams, and its subprocess ends when it should."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import psutil
import pytest
from support import PATIENCE_S, connect, script, settled, thread_server, tokens, until

from labkit.background import LoopThread
from labkit.child import Child
from labkit.engine import create_engine
from labkit.engine.isolated import IsolatedEngine
from labkit.engine.text_stream import TokenStream
from labkit.errors import EngineFailed, InvalidRequest, StartError
from labkit.events import Event, Failed, Finished, GenerateRequest, Started, Token
from labkit.stream import HIGH_WATER, Stream

ENDLESS = "scripted:tokens=60000,interval_ms=5"

PARENT = f"""
import sys
from labkit.engine import create_engine
engine = create_engine("process:{ENDLESS}")
print(engine.pid, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def endless() -> Iterator[IsolatedEngine]:
    engine = IsolatedEngine(ENDLESS)
    yield engine
    engine.close()


def request(max_tokens: int, *, stamps: bool = False) -> GenerateRequest:
    return GenerateRequest(prompt="one two three", max_tokens=max_tokens, stamps=stamps)


async def collect(stream: Stream) -> list[Event]:
    async with asyncio.timeout(PATIENCE_S):
        return [event async for event in stream]


def text_of(events: list[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, Token)]


def failed(events: list[Event]) -> Failed:
    last = events[-1]
    assert isinstance(last, Failed), last
    return last


def ended(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


async def test_the_stream_is_the_one_of_the_engine_inside() -> None:
    engine = create_engine("process:scripted:tokens=20,interval_ms=0")
    assert engine.name == "process:scripted"
    for count, reason in ((5, "length"), (20, "stop")):
        events = await collect(engine.submit(request(count)))
        assert events[0] == Started(0, "", "scripted", 3)
        assert text_of(events) == script(count)
        assert [event.id for event in events] == list(range(count + 2))
        assert events[-1] == Finished(count + 1, reason, count)  # type: ignore[arg-type]
    engine.close()


async def test_many_streams_run_at_once(endless: IsolatedEngine) -> None:
    endless.tune(interval_ms=1)
    all_events = await asyncio.gather(*(collect(endless.submit(request(20 + n))) for n in range(20)))
    assert [text_of(events) for events in all_events] == [script(20 + n) for n in range(20)]


async def test_sampled_is_the_subprocess_s_own_and_queued_is_ours(endless: IsolatedEngine) -> None:
    stream = endless.submit(request(60_000, stamps=True))
    await until(lambda: stream.produced > 2, "tokens come")
    stopped_ns = time.monotonic_ns()
    time.sleep(0.3)  # noqa: ASYNC251 this loop stands still, the other process does not
    again_ns = time.monotonic_ns()
    stamps = [e.stamps for _ in range(60) if isinstance(e := await anext(stream), Token) and e.stamps]
    stream.close()
    assert all(0 < s.sampled < s.queued for s in stamps)
    meanwhile = [s for s in stamps if stopped_ns < s.sampled < again_ns]
    assert meanwhile
    assert all(s.queued >= again_ns for s in meanwhile)
    without = await collect(endless.submit(request(2)))
    assert [event.stamps for event in without if isinstance(event, Token)] == [None, None]


async def test_a_reader_that_does_not_read_stops_the_model() -> None:
    engine = IsolatedEngine("scripted:tokens=60000,interval_ms=0")
    stream = engine.submit(request(60_000, stamps=True))
    await until(lambda: stream.produced >= HIGH_WATER - 1, "the buffer fills")
    assert await settled(lambda: stream.produced) < HIGH_WATER
    await asyncio.sleep(0.3)
    read_ns = time.monotonic_ns()
    async with asyncio.timeout(60):
        events = [event async for event in stream]
    before = [e for e in events if isinstance(e, Token) and e.stamps and e.stamps.sampled < read_ns]
    assert len(before) < 3000, "the rest is sampled after the reader goes on"
    assert len(events) == 60_002
    assert stream.peak <= HIGH_WATER
    engine.close()


@pytest.mark.parametrize("interval_ms", [1, 3_600_000])
@pytest.mark.parametrize("leave", [TokenStream.close, TokenStream.cancel])
async def test_a_reader_that_leaves_stops_the_work_inside(
    leave: Callable[[TokenStream], None], interval_ms: int
) -> None:
    engine = IsolatedEngine(f"process:scripted:tokens=60000,interval_ms={interval_ms}")
    inner = psutil.Process(engine.pid)
    stream = engine.submit(request(60_000))
    async with asyncio.timeout(PATIENCE_S):
        assert isinstance(await anext(stream), Started)
    assert connected(inner)
    leave(stream)
    events = await collect(stream)
    assert not events or (isinstance(events[-1], Finished) and events[-1].reason == "cancelled")
    await until(lambda: not engine._tasks, "the task ends")
    await until(lambda: not connected(inner), "the inner engine's connection ends")
    engine.close()


def connected(process: psutil.Process) -> list[object]:
    """Connections that a process and its children hold, also those that the other end has closed."""
    family = [process, *process.children(recursive=True)]
    open_states = {psutil.CONN_ESTABLISHED, psutil.CONN_CLOSE_WAIT}
    return [c for p in family for c in p.net_connections("tcp") if c.status in open_states]


async def test_knobs_turn_inside_while_streams_run(endless: IsolatedEngine) -> None:
    endless.tune(interval_ms=3_600_000)
    stream = endless.submit(request(4))
    await until(lambda: isinstance(stream.pop(), Started), "it has begun")
    assert await settled(lambda: stream.produced) == 0
    endless.tune(interval_ms=0)
    *_, last = await asyncio.wait_for(
        collect(stream), PATIENCE_S
    )  # a token that waits at the old pace comes at once
    assert isinstance(last, Finished)
    assert text_of(await collect(endless.submit(request(4)))) == script(4)
    with pytest.raises(InvalidRequest, match="no knob 'speed': it has interval_ms"):
        endless.tune(speed=3)
    with pytest.raises(InvalidRequest, match="interval_ms"):
        endless.tune(interval_ms=-1)


async def test_an_error_of_the_engine_inside_keeps_its_code() -> None:
    engine = IsolatedEngine("scripted:interval_ms=0,fail_after=3")
    events = await collect(engine.submit(request(9)))
    assert text_of(events) == script(3)
    assert (failed(events).code, failed(events).message) == (
        "engine_failed",
        "scripted to fail after 3 tokens",
    )
    assert engine.failed is None
    wrong = GenerateRequest.model_construct(prompt="x", max_tokens=0)
    assert failed(await collect(engine.submit(wrong))).code == "invalid_request"
    engine.close()


@pytest.mark.parametrize(
    ("inner", "says"),
    [
        ("nonsense", "no engine 'nonsense': there are"),
        ("scripted:speed=3", "no option 'speed'"),
        ("scripted:interval_ms=-1", "interval_ms"),
        ("process:scripted:tokens=x", "valid integer"),
    ],
)
def test_an_engine_that_cannot_be_made_gives_its_reason(inner: str, says: str) -> None:
    with pytest.raises(StartError, match=says) as error:
        IsolatedEngine(inner)
    assert "\n" not in str(error.value)


def test_a_subprocess_that_ends_before_it_answers_is_a_start_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(StartError, match=r"the process of engine 'scripted' has ended \(status 1\)"):
        IsolatedEngine("scripted")


async def test_death_in_the_middle_fails_the_streams_and_later_requests(
    endless: IsolatedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A killed process of many threads closes its sockets a while before it has ended.
    monkeypatch.setattr(Child, "running", True)
    streams = [endless.submit(request(60_000)) for _ in range(3)]
    await until(lambda: all(stream.produced > 2 for stream in streams), "tokens come")
    os.kill(endless.pid, signal.SIGKILL)
    for stream in streams:
        events = await collect(stream)
        assert text_of(events) == script(len(events) - 2)
        assert failed(events).code == "engine_failed"
        assert "make the engine again" in failed(events).message
    with pytest.raises(EngineFailed, match="make the engine again"):
        endless.submit(request(3))
    with pytest.raises(EngineFailed, match="make the engine again"):
        endless.tune(interval_ms=1)


async def test_death_while_nobody_reads_fails_the_next_request(endless: IsolatedEngine) -> None:
    os.kill(endless.pid, signal.SIGKILL)
    endless._child._process.wait(PATIENCE_S)
    assert endless.failed and "make the engine again" in endless.failed
    with pytest.raises(EngineFailed, match="make the engine again"):
        endless.submit(request(3))


async def test_closing_ends_the_streams_and_the_subprocess(endless: IsolatedEngine) -> None:
    stream = endless.submit(request(60_000))
    await until(lambda: stream.produced, "tokens come")
    await asyncio.to_thread(endless.close)
    assert ended(endless.pid)
    assert failed(await collect(stream)).code == "engine_failed"
    endless.close()
    with pytest.raises(EngineFailed, match="closed"):
        endless.submit(request(3))


def test_a_forgotten_engine_ends_its_subprocess() -> None:
    engine = IsolatedEngine("scripted")
    pid = engine.pid
    del engine
    assert ended(pid)


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGTERM, None])
def test_the_subprocess_does_not_outlive_its_parent(signal_number: signal.Signals | None) -> None:
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", PARENT], stdin=pipe, stdout=pipe, text=True) as parent:
        assert parent.stdin and parent.stdout
        child = psutil.Process(int(parent.stdout.readline()))
        assert child.is_running()
        if signal_number is None:
            parent.stdin.close()
        else:
            parent.send_signal(signal_number)
        parent.wait(PATIENCE_S)
        psutil.wait_procs([child], timeout=PATIENCE_S)
        assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


async def test_servers_on_loops_of_their_own_share_one(endless: IsolatedEngine) -> None:
    endless.tune(interval_ms=1)
    with thread_server("sse", endless) as one, thread_server("websocket", endless) as other:
        async with connect("sse", one) as left, connect("websocket", other) as right:
            recordings = await asyncio.gather(left.record(request(40)), right.record(request(50)))
    assert [len(tokens(recording)) for recording in recordings] == [40, 50]
    assert recordings[1].text == "".join(script(50))


async def test_a_loop_that_ends_leaves_the_engine_to_the_others(endless: IsolatedEngine) -> None:
    async def begins() -> None:
        stream = endless.submit(request(60_000))
        await until(lambda: stream.produced, "tokens come")

    thread = LoopThread("labkit-elsewhere")
    await asyncio.to_thread(thread.run, begins())
    assert connected(psutil.Process(endless.pid))
    await asyncio.to_thread(thread.close)
    await until(lambda: not connected(psutil.Process(endless.pid)), "its connection ends with its loop")
    assert text_of(await collect(endless.submit(request(4)))) == script(4)


async def test_a_stranger_on_the_port_gets_no_answer_and_does_no_harm(endless: IsolatedEngine) -> None:
    for data in (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"[1]\n", b"3\n", b"", b"\0" * 99):
        with socket.create_connection(("127.0.0.1", endless._port), PATIENCE_S) as sock:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            assert json.loads(sock.makefile("rb").readline())["type"] == "failed"
    assert text_of(await collect(endless.submit(request(4)))) == script(4)


async def test_the_shipped_model_answers_from_there_as_it_does_here() -> None:
    story = GenerateRequest(prompt="Once upon a time", max_tokens=12, seed=3, ignore_eos=True)
    here, there = create_engine("tiny"), create_engine("process:tiny:interval_ms=1")
    both = await asyncio.gather(collect(here.submit(story)), collect(there.submit(story)))
    here.close()
    there.close()
    assert both[0] == both[1]
    assert both[0][-1] == Finished(13, "length", 12)
