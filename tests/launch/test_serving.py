"""Servers start and stop: an error is one line, a cell can run again, and nothing is left behind."""

import asyncio
import gc
import re
import socket
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import pytest
from support import (
    PATIENCE_S,
    Watched,
    ask,
    assert_whole,
    connect,
    free_port,
    outcomes,
    thread_server,
    tokens,
    until,
)

import labkit
from labkit import interfaces
from labkit.errors import EngineFailed, InvalidRequest, StartError
from labkit.figures import metrics
from labkit.launch.process import ProcessServer
from labkit.launch.server import ServerOptions
from labkit.launch.threaded import ThreadServer
from labkit.service.service import Service

QUICK = "scripted:tokens=20,interval_ms=1"
ISOLATIONS = pytest.mark.parametrize("isolation", ["thread", "process"])


async def answered(interface: str, server: labkit.Server, count: int = 3) -> None:
    async with connect(interface, server) as client:
        assert_whole(await client.record(ask(count)), count)


def one_line(error: pytest.ExceptionInfo[StartError]) -> str:
    line = str(error.value)
    assert line and "\n" not in line and "Traceback" not in line
    return line


@contextmanager
def taken() -> Iterator[int]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        yield sock.getsockname()[1]


@ISOLATIONS
def test_port_in_use_is_an_error_of_one_line(interface: str, isolation: str) -> None:
    with taken() as port, pytest.raises(StartError) as error:
        labkit.serve(interface, QUICK, port=port, isolation=isolation)  # type: ignore[arg-type]
    line = one_line(error)
    assert str(port) in line and "in use" in line and "choose another" in line


def test_port_held_by_a_server_of_the_same_kind_is_in_use(interface: str) -> None:
    """If two servers could share a port, each would get some of the connections."""
    create = interfaces.server(interface)
    with ThreadServer(interface, create, QUICK, ServerOptions()) as first:
        second = ThreadServer(interface, create, QUICK, ServerOptions(port=first.port))
        with pytest.raises(StartError, match="in use"):
            second.start()


@pytest.mark.parametrize(
    ("engine", "says"),
    [
        ("nonsense", r"no engine 'nonsense': there are .*scripted"),
        ("scripted:speed=3", r"no option 'speed': there are .*interval_ms"),
        ("scripted:tokens=many", r"tokens: .*valid integer.* not 'many'"),
        ("scripted:tokens", r"tokens: .*valid integer.* not ''"),
        ("", r"no engine ''"),
    ],
)
@ISOLATIONS
def test_wrong_engine_is_an_error_of_one_line(isolation: str, engine: str, says: str) -> None:
    with pytest.raises(StartError) as error:
        labkit.serve("sse", engine, isolation=isolation)  # type: ignore[arg-type]
    assert re.search(says, one_line(error))


def test_wrong_name_is_an_error_of_one_line() -> None:
    with pytest.raises(StartError, match=r"no interface 'smoke'.*sse"):
        labkit.serve("smoke", QUICK)
    with pytest.raises(InvalidRequest, match="flush policy"):
        labkit.serve("sse", QUICK, flush="never")
    with pytest.raises(StartError, match="give it as text"):
        labkit.serve("sse", Watched(), isolation="process")
    with pytest.raises(StartError, match=r"192\.0\.2\.1"):
        labkit.serve("sse", QUICK, host="192.0.2.1")


def test_server_that_cannot_be_made_leaves_nothing_behind() -> None:
    def broken(service: Service) -> interfaces.Listener:
        raise RuntimeError("cannot be made")

    with pytest.raises(RuntimeError, match="cannot be made"):
        labkit.serve(broken, QUICK)


def test_engine_of_the_server_is_closed_with_it_and_one_that_is_shared_is_not() -> None:
    shared = Watched()
    server = thread_server("sse", shared)
    own = thread_server("sse", QUICK)
    engine = own.service.engine
    server.stop()
    own.stop()
    assert engine._closed  # type: ignore[attr-defined]
    assert not shared._closed


async def test_fixed_port_is_taken_over_by_the_next_server(interface: str) -> None:
    """A cell runs again: the old server stops, and the new one takes its port."""
    port = free_port()
    first = labkit.serve(interface, QUICK, port=port)
    second = labkit.serve(interface, QUICK, port=port)
    try:
        assert not first.running and second.running
        assert second.port == port and second.url.endswith(f":{port}")
        await answered(interface, second)
        first.stop()
        assert second.running, "the old handle does not stop the new server"
    finally:
        second.stop()


async def test_restart_on_the_same_port(interface: str) -> None:
    server = labkit.serve(interface, QUICK, port=free_port())
    for _ in range(2):
        port = server.port
        await answered(interface, server)
        server.stop()
        server.stop()
        assert not server.running
        server.start()
        server.start()
        assert server.port == port
    await answered(interface, server)
    server.stop()


async def test_forgotten_server_is_stopped(interface: str) -> None:
    server = thread_server(interface, QUICK)
    service, reference = server.service, weakref.ref(server)
    url = server.url
    del server
    gc.collect()
    assert reference() is None
    await until(lambda: service.stopping, "its service stops")
    await until(lambda: not labkit_threads(interface), "its thread ends")
    with pytest.raises(labkit.errors.LabkitError):
        async with connect(interface, url) as client:
            await asyncio.wait_for(client.record(ask(3)), PATIENCE_S)


def labkit_threads(interface: str) -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == f"labkit-{interface}"]


async def test_cycles_leak_neither_threads_nor_sockets(interface: str) -> None:
    process = psutil.Process()

    async def cycle() -> None:
        with labkit.serve(interface, QUICK) as server:
            await answered(interface, server)

    for _ in range(2):  # the first cycles make some things that stay
        await cycle()
    gc.collect()
    threads, files = threading.active_count(), process.num_fds()
    for _ in range(20):
        await cycle()
    gc.collect()
    await until(lambda: process.num_fds() <= files + 4, f"no more files than {files}")
    assert threading.active_count() <= threads + 2
    assert not [c for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN]


async def test_two_servers_of_one_kind_share_an_engine_and_nothing_else(interface: str) -> None:
    engine = Watched(tokens=60_000, interval_ms=5)
    with thread_server(interface, engine) as one, thread_server(interface, engine, flush="tokens:9") as other:
        assert one.port != other.port
        async with connect(interface, one) as left, connect(interface, other) as right:
            cut = asyncio.create_task(left.record(ask(60_000)))
            kept = asyncio.create_task(right.record(ask(100)))
            await until(lambda: len(engine.streams) == 2, "both have begun")
            one.stop()
            one_end, other_end = await outcomes([cut, kept])
            assert not (isinstance(one_end, labkit.Recording) and isinstance(one_end.end, labkit.Finished))
            assert isinstance(other_end, labkit.Recording), other_end
            assert_whole(other_end, 100)
            assert_whole(await right.record(ask(3)), 3)


@ISOLATIONS
async def test_knobs_turn_in_both_isolations(isolation: str) -> None:
    engine = "scripted:tokens=500,interval_ms=0"
    with labkit.serve("websocket", engine, isolation=isolation) as server:  # type: ignore[arg-type]
        async with connect("websocket", server) as client:

            async def chunks(count: int) -> int:
                return metrics.figures(await client.record(ask(count))).chunks

            assert await chunks(100) == 100
            server.tune(flush="tokens:50")
            assert await chunks(100) == 2
            server.tune(flush="token", interval_ms=20)
            recording = await client.record(ask(10))
            tpot = metrics.figures(recording).tpot_ms
            assert tpot is not None and tpot > 15
            with pytest.raises(InvalidRequest):
                server.tune(flush="never")
            assert len(tokens(await client.record(ask(2)))) == 2
            server.stop()
            with pytest.raises(StartError, match="not running"):
                server.tune(interval_ms=1)


async def test_flush_that_was_turned_is_kept_over_a_restart() -> None:
    with thread_server("sse", QUICK) as server:
        server.tune(flush="tokens:7")
        server.stop()
        server.start()
        assert str(server.service.flush) == "tokens:7"


def test_looks_the_same_whatever_the_port() -> None:
    """A notebook's committed output must not change from run to run."""
    with labkit.serve("sse", QUICK) as server:
        assert repr(server) == "<sse server, running>"
    assert repr(server) == "<sse server, stopped>"


def test_stopped_server_has_no_service() -> None:
    server = thread_server("sse", QUICK)
    server.stop()
    with pytest.raises(StartError, match="sse server is not running"):
        _ = server.service


@pytest.mark.parametrize("how", ["name", "module", "function"])
async def test_interface_by_name_module_or_function(how: str) -> None:
    import servers.sse

    forms: dict[str, Any] = {"name": "sse", "module": servers.sse, "function": servers.sse.create}
    with labkit.serve(forms[how], QUICK) as server:
        assert server.name == "sse"
        await answered("sse", server)


def test_starts_from_any_thread() -> None:
    results: list[str] = []

    def work() -> None:
        with labkit.serve("grpc", QUICK) as grpc, labkit.serve("sse", QUICK) as sse:
            asyncio.run(answered("grpc", grpc))
            asyncio.run(answered("sse", sse))
            results.append("answered")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(20)
    assert results == ["answered"]


def test_stops_from_any_thread() -> None:
    server = labkit.serve("sse", QUICK)
    threads = [threading.Thread(target=server.stop) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert not server.running and not labkit_threads("sse")


async def test_starts_in_a_cell_whose_loop_runs(interface: str) -> None:
    """A notebook with `await` at its top level calls `serve` on a loop that runs."""
    assert asyncio.get_running_loop().is_running()
    with labkit.serve(interface, QUICK) as server:
        assert server.running
        await answered(interface, server)


@pytest.mark.parametrize("isolation", [ThreadServer, ProcessServer])
async def test_ipv6_address_is_answered(isolation: type) -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    name = "thread" if isolation is ThreadServer else "process"
    try:
        server = labkit.serve("sse", QUICK, host="::1", isolation=name)  # type: ignore[arg-type]
    except StartError as error:
        pytest.skip(f"no IPv6 here: {error}")
    with server:
        assert isinstance(server, isolation)
        assert server.url.startswith("http://[::1]:")
        await answered("sse", server)


def test_stop_all_stops_what_other_cells_have_left() -> None:
    """A notebook keeps references to what its cells have shown, so those servers are not collected."""
    engine = labkit.create_engine("tiny")
    servers = [labkit.serve("sse", engine), labkit.serve("grpc", QUICK, isolation="process")]
    labkit.stop_all()
    assert [server.running for server in servers] == [False, False]
    with pytest.raises(EngineFailed):
        engine.submit(labkit.GenerateRequest(prompt="x"))
    labkit.stop_all()
