"""What every interface promises when a client leaves, stalls or is cut off: the model's work follows."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

import pytest
from support import (
    PATIENCE_S,
    ByHand,
    Watched,
    abandoned,
    ask,
    assert_unless_busy,
    assert_whole,
    cable,
    connect,
    outcomes,
    script,
    settled,
    thread_server,
    tokens,
    until,
)

import labkit
from labkit.client import Chunk, Client, Recording
from labkit.errors import ConnectionLost
from labkit.figures.quiet import Neighbours
from labkit.launch.threaded import ThreadServer

ENDLESS = 60_000
STEP_MS = 25.0
TRIES = 3


class Stepwise(Watched):
    """A slow engine, so that a test can count its steps after a client has left."""

    def __init__(self) -> None:
        super().__init__(tokens=ENDLESS, interval_ms=STEP_MS)

    async def first_tokens(self) -> None:
        await until(lambda: self.streams and self.streams[0].produced >= 3, "three tokens")


async def cancelled(client: Client, engine: Stepwise) -> int:
    """Leave by cancelling the task that reads; returns the tokens produced by then."""
    task = asyncio.create_task(client.record(ask(ENDLESS)))
    await engine.first_tokens()
    await abandoned(task)
    return engine.streams[0].produced


async def closed(client: Client, engine: Stepwise) -> int:
    """Leave by closing the generator in the middle; returns the tokens produced by then."""
    async with aclosing(client.events(ask(ENDLESS))) as events:
        async for event in events:
            if event.id == 3:
                break
    return engine.streams[0].produced


@pytest.mark.parametrize("leave", [cancelled, closed])
async def test_work_stops_within_a_step_when_the_client_leaves(
    interface: str, leave: Callable[[Client, Stepwise], Awaitable[int]]
) -> None:
    engine = Stepwise()
    with thread_server(interface, engine) as server:
        async with connect(interface, server) as client:
            if leave is closed and not client.streams:
                pytest.skip(f"{interface} does not stream: there is no middle to leave in")
            excess = []
            for _ in range(TRIES):
                engine.streams.clear()
                produced = await leave(client, engine)
                await until(lambda: server.service.open_streams == 0, "the stream is forgotten")
                excess.append(await settled(lambda: engine.streams[0].produced) - produced)
            # A busy machine may report a client's end late, so the best of several tries counts.
            assert min(excess) <= 1, f"steps after the client had left: {excess}"
            engine.interval_ms = 0
            assert_whole(await client.record(ask(5)), 5)


async def test_cut_connection_stops_the_work_and_is_told(interface: str) -> None:
    engine = Stepwise()
    with thread_server(interface, engine) as server:
        excess = []
        for _ in range(TRIES):
            engine.streams.clear()
            async with cable(server.url) as laid, connect(interface, laid.url) as client:
                task = asyncio.create_task(client.record(ask(ENDLESS)))
                await engine.first_tokens()
                produced = engine.streams[0].produced
                laid.cut()
                (lost,) = await outcomes([task])
                assert isinstance(lost, ConnectionLost), lost
                await until(lambda: server.service.open_streams == 0, "the stream is forgotten")
                excess.append(await settled(lambda: engine.streams[0].produced) - produced)
        assert min(excess) <= 1, f"steps after the cut: {excess}"
        engine.interval_ms = 0
        async with connect(interface, server) as client:
            assert_whole(await client.record(ask(5)), 5)


async def test_storm_of_clients_that_leave_ends_every_stream(interface: str) -> None:
    engine = Watched(tokens=ENDLESS, interval_ms=2)
    with thread_server(interface, engine) as server:
        async with connect(interface, server) as client:
            tasks = [asyncio.create_task(client.record(ask(ENDLESS))) for _ in range(30)]
            for wave in range(10):
                await asyncio.sleep(0.005 * (wave % 3))
                for task in tasks[wave::10]:
                    task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await until(lambda: server.service.open_streams == 0, "all streams are forgotten")
            assert all(not stream.wanted for stream in engine.streams)
            assert_whole(await client.record(ask(5)), 5)


COUNT = 20_000


async def test_slow_reader_holds_its_own_stream_back_and_no_other(interface: str) -> None:
    engine = Watched(tokens=COUNT, interval_ms=0)
    with thread_server(interface, engine) as server:
        async with connect(interface, server) as slow, connect(interface, server) as brisk:
            if not slow.streams:
                pytest.skip(f"{interface} does not stream: its server collects, nobody reads slowly")
            recording = Recording(interface, 0)
            async with aclosing(slow.chunks(ask(COUNT))) as chunks:
                await read(chunks, recording, 3)
                stream = engine.streams[-1]
                count = await settled(lambda: stream.produced)
                assert count < COUNT / 3, "the engine ran ahead of a reader that had stopped"
                assert stream.peak <= stream.high_water + 2
                assert server.service.open_streams == 1, "the stream waits, it has not been dropped"

                served = await asyncio.wait_for(brisk.record(ask(50)), PATIENCE_S)
                assert_whole(served, 50)
                assert stream.produced == count

                await read(chunks, recording)
            assert_whole(recording, COUNT)
            assert stream.peak <= stream.high_water + 2


async def read(chunks: AsyncGenerator[Chunk, None], recording: Recording, count: int = 10**9) -> None:
    """Read up to `count` chunks more."""
    for _ in range(count):
        chunk: Chunk | None = await anext(chunks, None)
        if chunk is None:
            return
        recording.chunks.append(chunk)


async def test_slow_reader_that_leaves_frees_its_stream(interface: str) -> None:
    engine = Watched(tokens=COUNT, interval_ms=0)
    with thread_server(interface, engine) as server:
        async with connect(interface, server) as client:
            if not client.streams:
                pytest.skip(f"{interface} does not stream: its server collects, nobody reads slowly")
            async with aclosing(client.chunks(ask(COUNT))) as chunks:
                await read(chunks, Recording(interface, 0), 3)
                stream = engine.streams[-1]
                await settled(lambda: stream.produced)
            await until(lambda: server.service.open_streams == 0, "the stream is forgotten")
            assert not stream.wanted
            assert stream.produced < COUNT
            assert_whole(await asyncio.wait_for(client.record(ask(7)), PATIENCE_S), 7)


@pytest.mark.parametrize("leave", ["cancel", "cut"])
async def test_leaving_while_the_model_thinks_frees_the_stream(interface: str, leave: str) -> None:
    """No write can fail, since no token comes: the server has to notice by itself that the client left."""
    engine = ByHand()
    with thread_server(interface, engine) as server:
        async with cable(server.url) as laid, connect(interface, laid.url) as client:
            task = asyncio.create_task(client.record(ask(5)))
            await until(lambda: server.service.open_streams == 1, "the request has come")
            if leave == "cut":
                laid.cut()
                (lost,) = await outcomes([task])
                assert isinstance(lost, ConnectionLost), lost
            else:
                await abandoned(task)
            await until(lambda: server.service.open_streams == 0, "the stream is forgotten")
            assert not engine.streams[0].wanted


async def test_stopping_tells_each_open_stream(interface: str) -> None:
    seconds, farewells, neighbours = [], [], Neighbours()
    for _ in range(TRIES):
        engine = Watched(tokens=ENDLESS, interval_ms=5)
        with thread_server(interface, engine) as server:
            async with connect(interface, server) as one, connect(interface, server) as other:
                clients = [one, other] * 3
                tasks = [asyncio.create_task(client.record(ask(ENDLESS))) for client in clients]
                await until(lambda: server.service.open_streams == 6, "six streams are open")
                await engine.all_have_begun()
                seconds.append(await stopped(server))
                farewells.append(sum(heard_why(end) for end in await outcomes(tasks)))
                server.stop()
                assert not server.running
                assert all(not stream.wanted for stream in engine.streams)
                with pytest.raises(labkit.errors.LabkitError):
                    await asyncio.wait_for(one.record(ask(3)), PATIENCE_S)
    assert_unless_busy(neighbours, min(seconds) < 1, f"seconds to stop: {seconds}")
    assert_unless_busy(neighbours, max(farewells) == 6, f"streams of six that heard why: {farewells}")


async def stopped(server: ThreadServer) -> float:
    loop = asyncio.get_running_loop()
    start = loop.time()
    await asyncio.to_thread(server.stop)
    return loop.time() - start


def heard_why(end: Recording | BaseException) -> bool:
    """Whether a stream that the server ended says so; otherwise its connection must be lost."""
    if not isinstance(end, Recording):
        assert isinstance(end, ConnectionLost), repr(end)
        return False
    assert isinstance(end.end, labkit.Failed), end.end
    assert end.end.code == "stopping"
    assert [event.id for event in end.events] == list(range(len(end.events)))
    assert [token.text for token in tokens(end)] == script(len(tokens(end)))
    return True


async def test_stopping_does_not_wait_for_clients_that_stand_still(interface: str) -> None:
    """As in a notebook, whose loop cannot read while a cell calls `stop`."""
    seconds, neighbours = [], Neighbours()
    for _ in range(TRIES):
        engine = Watched(tokens=ENDLESS, interval_ms=0)
        with thread_server(interface, engine) as server:
            async with connect(interface, server) as client, connect(interface, server) as other:
                go_on = asyncio.Event()
                tasks = [asyncio.create_task(dawdle(c, go_on)) for c in (client, other, client)]
                await engine.all_have_begun()
                await settled(engine.produced)
                start = asyncio.get_running_loop().time()
                server.stop()
                seconds.append(asyncio.get_running_loop().time() - start)
                go_on.set()
                for end in await outcomes(tasks):
                    if not (isinstance(end, Recording) and isinstance(end.end, labkit.Finished)):
                        heard_why(end)
    assert_unless_busy(neighbours, min(seconds) < 1, f"seconds to stop: {seconds}")


async def dawdle(client: Client, go_on: asyncio.Event) -> Recording:
    """Read three chunks, stand still, and read the rest."""
    recording = Recording(client.name, 0)
    async with aclosing(client.chunks(ask(ENDLESS))) as chunks:
        await read(chunks, recording, 3)
        await go_on.wait()
        await read(chunks, recording)
    if recording.end is None:
        raise ConnectionLost("no end")
    return recording
