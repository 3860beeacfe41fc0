"""Limits on open streams, and that every server says who asks."""

import asyncio
import socket

import pytest
from support import (
    Watched,
    abandoned,
    ask,
    assert_whole,
    cable,
    connect,
    outcomes,
    thread_server,
    until,
)

import labkit
from labkit.errors import InvalidRequest, Overloaded
from labkit.service.admission import Admission, Caller

SOMEBODY = Caller("127.0.0.1")


def test_a_place_that_was_given_back_is_free_again() -> None:
    admission = Admission(max_streams=2)
    admission.enter(SOMEBODY)
    admission.enter(SOMEBODY)
    with pytest.raises(Overloaded, match=r"all places are taken \(2\)"):
        admission.enter(Caller("10.0.0.1"))
    admission.leave(SOMEBODY)
    admission.enter(Caller("10.0.0.1"))
    assert admission.open_streams == 2


def test_a_connection_has_a_limit_of_its_own() -> None:
    admission = Admission(max_per_connection=1)
    one, other = Caller("127.0.0.1", "one"), Caller("127.0.0.1", "other")
    admission.enter(one)
    with pytest.raises(Overloaded, match=r"all places of this connection are taken \(1\)"):
        admission.enter(one)
    admission.enter(other)
    admission.leave(one)
    admission.enter(one)
    assert admission.open_streams == 2, "a refusal takes no place"


def full(max_streams: int) -> Admission:
    """All places are taken by one host."""
    admission = Admission(max_streams)
    for _ in range(max_streams):
        admission.enter(SOMEBODY)
    return admission


def places(admission: Admission, caller: Caller) -> int:
    """How many more streams this caller gets now."""
    for count in range(1000):
        try:
            admission.enter(caller)
        except Overloaded:
            return count
    raise AssertionError("there is no limit")


def test_one_host_alone_may_take_every_place_and_no_more() -> None:
    assert places(Admission(256), SOMEBODY) == 256


def test_a_host_that_has_none_gets_a_place_in_a_full_server() -> None:
    admission = full(256)
    assert places(admission, Caller("10.0.0.1")) == 16, "half of the eighth"
    assert [places(admission, Caller(f"10.0.1.{i}")) for i in range(20)] == [1] * 16 + [0] * 4
    assert places(admission, SOMEBODY) == 0
    assert admission.open_streams == 256 + 32


def test_places_move_until_each_host_has_an_equal_share() -> None:
    admission, other, third = full(60), Caller("10.0.0.1"), Caller("10.0.0.2")
    held = {SOMEBODY: 60, other: 0, third: 0}
    for turn in range(400):
        for caller in held:
            held[caller] += places(admission, caller)
        ending = max(held, key=lambda caller: (held[caller], turn))
        admission.leave(ending)
        held[ending] -= 1
    assert max(held.values()) - min(held.values()) <= 2, held


def test_a_host_that_has_left_is_forgotten() -> None:
    admission = Admission(2)
    other = Caller("10.0.0.1")
    admission.enter(other)
    admission.leave(other)
    assert places(admission, SOMEBODY) == 2
    assert not vars(admission)["_of_host"][other.host] and len(vars(admission)["_of_host"]) == 1


async def test_one_host_cannot_shut_out_another(interface: str) -> None:
    with thread_server(interface, engine := Watched(tokens=60_000, interval_ms=5), max_streams=8) as server:
        try:
            socket.create_server(("127.0.0.2", 0)).close()
        except OSError as error:
            pytest.skip(f"this machine has no second address: {error}")
        async with connect(interface, server) as greedy, cable(server.url, "127.0.0.2") as far:
            tasks = [asyncio.ensure_future(greedy.record(ask(60_000))) for _ in range(8)]
            await until(lambda: server.service.open_streams == 8, "all places are taken")
            with pytest.raises(Overloaded, match=r"all places are taken \(8\)"):
                await greedy.record(ask(1))
            async with connect(interface, far.url) as newcomer:
                assert_whole(await newcomer.record(ask(3)), 3)
            for task in tasks:
                await abandoned(task)
    assert len(engine.streams) == 9


async def test_every_server_says_who_asks(interface: str) -> None:
    callers: list[Caller] = []
    with thread_server(interface, Watched(tokens=3)) as server:
        admission = server.service.admission
        enter = admission.enter

        def watched(caller: Caller) -> None:
            callers.append(caller)
            enter(caller)

        admission.enter = watched  # type: ignore[method-assign]
        async with connect(interface, server) as client:
            await client.record(ask(3))
        await until(lambda: server.service.open_streams == 0, "its place is free again")
    assert [caller.host for caller in callers] == ["127.0.0.1"]


@pytest.mark.parametrize("isolation", ["thread", "process"])
async def test_the_limit_can_be_set(interface: str, isolation: str) -> None:
    slow = "scripted:tokens=64,interval_ms=20"
    with labkit.serve(interface, slow, max_streams=2, isolation=isolation) as server:  # type: ignore[arg-type]
        async with connect(interface, server) as client:
            tasks = [asyncio.ensure_future(client.record(ask(64))) for _ in range(3)]
            refusals = [end for end in await outcomes(tasks) if isinstance(end, BaseException)]
    assert [type(refusal) for refusal in refusals] == [Overloaded]


def test_a_limit_of_none_is_refused(interface: str) -> None:
    with pytest.raises(InvalidRequest, match="max_streams: at least 1"):
        labkit.serve(interface, "scripted", max_streams=0)
