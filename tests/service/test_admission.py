"""Limits on open streams, and that every server says who asks."""

import asyncio

import pytest
from support import Watched, ask, connect, outcomes, thread_server, until

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
