"""The bounded stream between an engine's thread and a reader's loop: order, backpressure, one end."""

import asyncio
import random
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator

import pytest
from support import PATIENCE_S

from labkit.engine.text_stream import TokenStream
from labkit.events import Event, Failed, Finished, Started, Token
from labkit.stream import HIGH_WATER


@pytest.fixture
def nervous() -> Iterator[None]:
    """Let threads switch as often as possible, so that races happen."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual)


def produce(
    stream: TokenStream, count: int, pause: Callable[[int], None] = lambda _: None
) -> threading.Thread:
    """An engine in a thread of its own that makes `count` tokens as fast as the stream accepts them."""

    def work() -> None:
        stream.started("thread", 1)
        for index in range(count):
            while not stream.writable:
                if not stream.wanted:
                    return
                time.sleep(0)
            pause(index)
            stream.token(f"{index} ")
        stream.finish("stop")

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


async def collect(stream: TokenStream) -> list[Event]:
    return [event async for event in stream]


def assert_one_end(events: list[Event]) -> None:
    """Ids without a gap, and the only terminal event is the last."""
    assert [event.id for event in events] == list(range(len(events)))
    assert isinstance(events[-1], Finished | Failed)
    assert not any(isinstance(event, Finished | Failed) for event in events[:-1])


async def test_events_come_with_contiguous_ids_and_one_end() -> None:
    stream = TokenStream("r")
    stream.started("model", 7)
    stream.token("a")
    stream.token("")
    stream.finish("length")
    stream.token("too late")
    stream.fail("engine_failed", "too late")
    assert await collect(stream) == [
        Started(0, "r", "model", 7),
        Token(1, "a"),
        Token(2, ""),
        Finished(3, "length", 2),
    ]
    assert stream.exhausted and not stream.wanted and stream.pop() is None
    assert await collect(stream) == []


async def test_failure_is_an_end_too() -> None:
    stream = TokenStream("r")
    stream.started("model", 1)
    stream.fail("engine_failed", "broke")
    stream.finish("stop")
    assert await collect(stream) == [Started(0, "r", "model", 1), Failed(1, "engine_failed", "broke")]


async def test_stamps_only_when_asked_for() -> None:
    before = time.monotonic_ns()
    stream = TokenStream("r", stamped=True)
    stream.token("a", before)
    token = stream.pop()
    assert isinstance(token, Token) and token.stamps is not None
    assert token.stamps.sampled == before <= token.stamps.queued <= time.monotonic_ns()


async def test_high_water_mark_and_its_half() -> None:
    rooms: list[int] = []
    stream = TokenStream("r", high_water=8, on_room=lambda: rooms.append(1))
    for index in range(8):
        assert stream.writable, index
        stream.token("x")
    assert not stream.writable
    for _ in range(3):
        stream.pop()
        assert not stream.writable and not rooms, "not before it has drained to the half"
    stream.pop()
    assert stream.writable and rooms == [1], "once, at the half"
    while stream.pop() is not None:
        pass
    assert rooms == [1]
    assert (stream.peak, stream.produced) == (8, 8)


async def test_reader_that_drains_below_the_mark_is_not_called_room() -> None:
    rooms: list[int] = []
    stream = TokenStream("r", high_water=8, on_room=lambda: rooms.append(1))
    for _ in range(50):
        stream.token("x")
        assert stream.writable
        stream.pop()
    assert not rooms and stream.peak == 1


async def test_cancel_keeps_what_is_buffered_and_counts_what_was_read() -> None:
    rooms: list[int] = []
    stream = TokenStream("r", on_room=lambda: rooms.append(1))
    stream.started("m", 1)
    stream.token("a")
    stream.token("b")
    stream.cancel()
    assert rooms == [1] and not stream.wanted and not stream.writable
    stream.token("after")
    stream.finish("stop")
    events = await collect(stream)
    assert events[1:] == [Token(1, "a"), Token(2, "b"), Finished(3, "cancelled", 2)]


async def test_abort_ends_in_the_reason_given() -> None:
    stream = TokenStream("r")
    stream.started("m", 1)
    stream.abort("stopping", "the server is stopping")
    stream.cancel()
    assert (await collect(stream))[1:] == [Failed(1, "stopping", "the server is stopping")]


async def test_cancel_after_the_end_changes_nothing() -> None:
    stream = TokenStream("r")
    stream.started("m", 1)
    stream.finish("stop")
    stream.cancel()
    stream.abort("stopping", "no")
    assert (await collect(stream))[1:] == [Finished(1, "stop", 0)]


async def test_cut_wakes_a_reader_that_waits() -> None:
    stream = TokenStream("r")
    reader = asyncio.create_task(collect(stream))
    await asyncio.sleep(0.01)
    stream.abort("stopping", "now")
    assert await asyncio.wait_for(reader, PATIENCE_S) == [Failed(0, "stopping", "now")]


async def test_close_drops_what_is_buffered_and_ends_the_iteration() -> None:
    rooms: list[int] = []
    stream = TokenStream("r", on_room=lambda: rooms.append(1))
    stream.started("m", 1)
    stream.token("a")
    await stream.aclose()
    assert rooms and not stream.wanted and stream.exhausted
    assert await collect(stream) == []
    await stream.aclose()


async def test_close_wakes_a_reader_that_waits() -> None:
    stream = TokenStream("r")
    reader = asyncio.create_task(collect(stream))
    await asyncio.sleep(0.01)
    stream.close()
    assert await asyncio.wait_for(reader, PATIENCE_S) == []


async def test_token_put_while_the_reader_closes_is_not_read() -> None:
    """The engine sees an open stream, and puts just after the reader has closed it."""
    stream = TokenStream("r")

    class ClosesFirst(deque[Event]):
        def append(self, event: Event, /) -> None:
            stream.close()
            super().append(event)

    stream.started("m", 1)
    stream._events = ClosesFirst(stream._events)
    stream.token("a")
    assert await collect(stream) == []


class AtTheWorstMoment(deque[Event]):
    """A buffer that calls `then` once, right after a look at it."""

    def __init__(self, events: Iterable[Event], then: Callable[[], object]) -> None:
        super().__init__(events)
        self._then: Callable[[], object] | None = then

    def __len__(self) -> int:
        length = super().__len__()
        then, self._then = self._then, None
        if then is not None:
            then()
        return length

    def __bool__(self) -> bool:
        return len(self) > 0


def in_a_thread(work: Callable[[], None]) -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


async def test_token_put_just_after_the_reader_looked_wakes_it() -> None:
    stream = TokenStream("r")
    stream._events = AtTheWorstMoment([], lambda: in_a_thread(lambda: stream.token("x")))
    await asyncio.wait_for(stream.wait(), PATIENCE_S)
    assert stream.pop() == Token(0, "x")


async def test_buffer_drained_just_after_the_engine_found_it_full_is_not_full_for_ever() -> None:
    stream = TokenStream("r", high_water=4)
    for _ in range(3):
        stream.token("x")

    def drain() -> None:
        while stream.pop() is not None:
            pass

    stream._events = AtTheWorstMoment(stream._events, drain)
    stream.token("x")
    assert stream.writable, "the engine would wait for ever: the reader did not see that the buffer was full"


async def test_wait_returns_after_its_time() -> None:
    stream = TokenStream("r")
    await asyncio.wait_for(stream.wait(0.01), PATIENCE_S)
    assert stream.pop() is None


async def test_producer_at_full_speed_arrives_whole(nervous: None) -> None:
    """If a wake-up is lost, this reader waits for ever."""
    count = 50_000
    stream = TokenStream("r")
    thread = produce(stream, count)
    events = await asyncio.wait_for(collect(stream), PATIENCE_S)
    thread.join()
    assert_one_end(events)
    assert events[-1] == Finished(count + 1, "stop", count)
    assert [event.text for event in events if isinstance(event, Token)] == [f"{i} " for i in range(count)]
    assert stream.peak <= HIGH_WATER + 2


async def test_producer_that_dawdles_is_waited_for(nervous: None) -> None:
    """Each token finds the reader asleep or just falling asleep."""
    rng = random.Random(1)
    stream = TokenStream("r", high_water=4)
    thread = produce(stream, 3_000, lambda _: time.sleep(rng.choice([0, 0, 1e-5, 1e-4])))
    events = await asyncio.wait_for(collect(stream), PATIENCE_S)
    thread.join()
    assert_one_end(events)
    assert len(events) == 3_002


@pytest.mark.parametrize("how", ["cancel", "abort", "close"])
async def test_reader_that_leaves_while_a_thread_puts(how: str, nervous: None) -> None:
    rng = random.Random(how)
    for _ in range(400):
        stream = TokenStream("r", high_water=8)
        thread = produce(stream, 40)
        leave_at, events = rng.randrange(45), list[Event]()
        async for event in stream:
            events.append(event)
            if len(events) == leave_at:
                if how == "close":
                    stream.close()
                elif how == "cancel":
                    stream.cancel()
                else:
                    stream.abort("stopping", "leaving")
        thread.join(5)
        assert not thread.is_alive(), "the engine was not told"
        assert stream.pop() is None
        if how == "close" and len(events) == leave_at:
            assert [event.id for event in events] == list(range(leave_at))
            continue
        assert_one_end(events)
        if isinstance(end := events[-1], Finished):
            assert end.pieces == len(events) - 2
            assert end.reason == "stop" or how == "cancel"


def test_loop_that_has_closed_stops_the_engine() -> None:
    async def leave() -> tuple[TokenStream, "asyncio.Task[None]"]:
        stream = TokenStream("r")
        waiting = asyncio.create_task(stream.wait())
        await asyncio.sleep(0)
        return stream, waiting

    loop = asyncio.new_event_loop()
    stream, waiting = loop.run_until_complete(leave())
    loop.close()
    thread = threading.Thread(target=stream.token, args=("x",))
    thread.start()
    thread.join()
    assert not stream.wanted
    waiting._log_destroy_pending = False  # type: ignore[attr-defined]  # it is meant to be left waiting
