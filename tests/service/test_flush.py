"""Flush policies: which text names them, and how a delivery groups a stream's tokens into writes."""

import asyncio
import itertools
import time
from math import inf
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import PATIENCE_S, ByHand, ask

from labkit.engine.text_stream import TokenStream
from labkit.errors import InvalidRequest
from labkit.events import Event, Failed, Finished, Token
from labkit.service.admission import Caller
from labkit.service.delivery import Delivery
from labkit.service.flush import MAX_GROUP, MAX_MS, EveryMs, EveryN, EveryPiece, FlushPolicy, parse_policy
from labkit.service.service import Service

policies = st.one_of(
    st.just(EveryPiece()),
    st.integers(1, MAX_GROUP).map(EveryN),
    st.integers(1, int(MAX_MS)).map(float).map(EveryMs),
)


@given(policies)
def test_text_form_round_trips(policy: FlushPolicy) -> None:
    assert parse_policy(str(policy)) == policy


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("token", EveryPiece()),
        ("tokens:1", EveryN(1)),
        ("tokens:512", EveryN(512)),
        ("ms:0.5", EveryMs(0.5)),
        ("ms:10000", EveryMs(10_000)),
    ],
)
def test_text_forms(text: str, policy: FlushPolicy) -> None:
    assert parse_policy(text) == policy


@pytest.mark.parametrize(
    "text",
    [
        "", "tokens", "token:3", "tokens:", "tokens:0", "tokens:-1", "tokens:513", "tokens:1.5",
        "ms", "ms:", "ms:0", "ms:-5", "ms:nan", "ms:inf", "ms:10001", "Token", " token", "bytes:3",
    ],
)  # fmt: skip
def test_what_is_no_policy(text: str) -> None:
    with pytest.raises(InvalidRequest, match="use token, tokens:N") as refused:
        parse_policy(text)
    assert repr(text) in str(refused.value)


def test_when_a_group_is_due() -> None:
    assert EveryPiece().wait_s(1, 0.0) == 0
    assert [EveryN(3).wait_s(pending, 9.0) for pending in (1, 2, 3, 4)] == [inf, inf, 0, 0]
    assert EveryMs(20).wait_s(1, 0.0) == pytest.approx(0.02)
    assert EveryMs(20).wait_s(5, 0.015) == pytest.approx(0.005)
    assert EveryMs(20).wait_s(5, 0.5) == 0
    assert EveryMs(20).wait_s(MAX_GROUP, 0.0) == 0, "a group has a limit whatever the time"


class Desk:
    """A stream that the test fills by hand, and its delivery."""

    def __init__(self, flush: str) -> None:
        engine = ByHand()
        self.service = Service(engine, parse_policy(flush))
        self.delivery: Delivery = self.service.generate(ask(), Caller())
        self.stream: TokenStream = engine.streams[0]
        self.stream.started("by hand", 1)

    def put(self, count: int) -> None:
        for _ in range(count):
            self.stream.token("x")

    async def rest(self) -> list[list[Event]]:
        groups = [group.events async for group in self.delivery]
        flat = [event for group in groups for event in group]
        assert [event.id for event in flat] == list(range(flat[0].id, flat[0].id + len(flat)))
        return groups


def sizes(groups: list[list[Event]]) -> list[int]:
    return [len(group) for group in groups]


async def next_group(desk: Desk) -> list[Event]:
    group = await asyncio.wait_for(anext(desk.delivery), PATIENCE_S)
    return group.events


@pytest.mark.parametrize(
    ("flush", "expected"),
    [
        ("token", [1] * 12),
        ("tokens:1", [1] * 12),
        ("tokens:4", [1, 4, 4, 3]),
        ("tokens:10", [1, 10, 1]),
        ("tokens:512", [1, 11]),
        ("ms:10000", [1, 11]),
    ],
)
async def test_groups_of_a_stream_that_is_there(flush: str, expected: list[int]) -> None:
    """Ten tokens: the start goes out alone and at once, the end goes out with the remaining tokens."""
    desk = Desk(flush)
    desk.put(10)
    desk.stream.finish("stop")
    groups = await desk.rest()
    assert sizes(groups) == expected
    assert isinstance(groups[-1][-1], Finished)


async def test_failure_takes_along_what_waits() -> None:
    desk = Desk("tokens:100")
    desk.put(3)
    desk.stream.fail("engine_failed", "broke")
    groups = await desk.rest()
    assert sizes(groups) == [1, 4]
    assert isinstance(groups[-1][-1], Failed)


async def test_by_number_waits_for_the_last_token_of_the_group() -> None:
    desk = Desk("tokens:3")
    await next_group(desk)
    coming = asyncio.create_task(next_group(desk))
    desk.put(2)
    await asyncio.sleep(0.05)
    assert not coming.done()
    desk.put(1)
    assert len(await coming) == 3


async def test_by_time_counts_from_the_first_token_of_the_group() -> None:
    desk = Desk("ms:60")
    await next_group(desk)
    loop = asyncio.get_running_loop()
    for count in (2, 1):
        coming = asyncio.create_task(next_group(desk))
        await asyncio.sleep(0.1)
        assert not coming.done(), "nothing waits, so no time runs"
        start = loop.time()
        desk.put(count)
        group = await coming
        assert len(group) == count
        assert loop.time() - start >= 0.055
    desk.stream.finish("stop")
    assert sizes(await desk.rest()) == [1], "an end waits for nothing"


async def test_by_time_takes_what_a_slow_producer_brings_meanwhile() -> None:
    desk = Desk("ms:2000")
    await next_group(desk)
    coming = asyncio.create_task(next_group(desk))
    for _ in range(5):
        desk.put(1)
        await asyncio.sleep(0.01)
        assert not coming.done()
    desk.stream.finish("stop")
    assert len(await coming) == 6


async def test_by_time_has_an_end_though_more_is_always_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look at the clock takes 10 ms: the sixth token finds its group 50 ms old."""
    ticks = itertools.count(1)
    clock = SimpleNamespace(monotonic=lambda: next(ticks) / 100, monotonic_ns=time.monotonic_ns)
    monkeypatch.setattr("labkit.service.delivery.time", clock)
    desk = Desk("ms:45")
    desk.put(60)
    assert [len(await next_group(desk)) for _ in range(3)] == [1, 6, 6]


async def test_policy_changed_in_the_middle_of_a_group() -> None:
    desk = Desk("tokens:100")
    await next_group(desk)
    coming = asyncio.create_task(next_group(desk))
    desk.put(5)
    await asyncio.sleep(0.02)
    desk.service.flush = parse_policy("tokens:6")
    desk.put(1)
    assert len(await coming) == 6
    desk.service.flush = parse_policy("token")
    desk.put(2)
    assert [len(await next_group(desk)) for _ in range(2)] == [1, 1]


async def test_policy_changed_to_time_counts_the_age_that_the_group_has() -> None:
    desk = Desk("tokens:100")
    await next_group(desk)
    coming = asyncio.create_task(next_group(desk))
    desk.put(1)
    await asyncio.sleep(0.08)
    desk.service.flush = parse_policy("ms:50")
    desk.put(1)
    assert len(await asyncio.wait_for(coming, PATIENCE_S)) == 2


async def test_the_time_of_flushing_is_the_groups_and_not_its_events() -> None:
    engine = ByHand()
    service = Service(engine, EveryN(3))
    delivery = service.generate(ask(stamps=True), Caller())
    before = time.monotonic_ns()
    for _ in range(3):
        engine.streams[0].token("x", 1)
    group = await anext(delivery)
    assert before <= group.flushed_ns <= time.monotonic_ns()
    assert flushed(group.events) == [0, 0, 0]
    assert flushed(group.written()) == [group.flushed_ns] * 3


def flushed(events: list[Event]) -> list[int]:
    return [event.stamps.flushed for event in events if isinstance(event, Token) and event.stamps]


async def test_closed_delivery_stops_the_work_and_is_forgotten() -> None:
    desk = Desk("token")
    assert desk.service.open_streams == 1
    await desk.delivery.aclose()
    await desk.delivery.aclose()
    assert desk.service.open_streams == 0 and not desk.stream.wanted
    assert [group async for group in desk.delivery] == []
