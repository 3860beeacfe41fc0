"""What every interface promises about an answer: the same events in order, grouped as the policy says."""

import asyncio
from contextlib import aclosing
from math import nan

import pytest
from support import (
    PATIENCE_S,
    Watched,
    abandoned,
    ask,
    assert_whole,
    connect,
    outcomes,
    script,
    thread_server,
    tokens,
    until,
)

import labkit
from labkit import interfaces
from labkit.errors import InvalidRequest, Overloaded, Refused
from labkit.events import MAX_PROMPT_CHARS, Started


@pytest.mark.parametrize("isolation", ["thread", "process"])
async def test_answer_is_whole_and_in_order(interface: str, isolation: str) -> None:
    engine = "scripted:tokens=40,interval_ms=1"
    with labkit.serve(interface, engine, isolation=isolation) as server:  # type: ignore[arg-type]
        async with connect(interface, server) as client:
            for count in (1, 24, 40):
                recording = await client.record(ask(count, request_id=f"mine-{count}"))
                assert_whole(recording, count)
                started = recording.events[0]
                assert isinstance(started, Started)
                assert (started.model, started.request_id) == ("scripted", f"mine-{count}")
                assert isinstance(recording.end, labkit.Finished)
                assert recording.end.reason == ("stop" if count == 40 else "length")
                assert recording.interface == interface
                stamps = [chunk.received_ns for chunk in recording.chunks]
                assert stamps == sorted(stamps)
                assert recording.sent_ns < stamps[0]


async def test_many_answers_at_once_on_one_client(interface: str) -> None:
    with thread_server(interface, Watched(interval_ms=1)) as server:
        async with connect(interface, server) as client:
            counts = range(3, 19)
            recordings = await asyncio.gather(*(client.record(ask(count)) for count in counts))
            for count, recording in zip(counts, recordings, strict=True):
                assert_whole(recording, count)
        await until(lambda: server.service.open_streams == 0, "all streams are forgotten")


async def test_text_of_any_script_passes_unchanged(interface: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hard = ["é", "\n", "data: x\n\n", "\r\n", '"\\', "\u2028", "🦊", "", "\x00", "</script>", " ", "\ufeff"]
    monkeypatch.setattr("labkit.engine.scripted.SCRIPT", hard)
    with thread_server(interface, Watched(interval_ms=0), flush="tokens:5") as server:
        async with connect(interface, server) as client:
            recording = await client.record(ask(2 * len(hard), prompt="日本\n\u2028\x00🦊"))
    assert [token.text for token in tokens(recording)] == hard * 2
    assert recording.text == "".join(hard) * 2


async def test_a_client_streams_as_its_class_says(interface: str) -> None:
    with thread_server(interface, Watched(interval_ms=5)) as server:
        async with connect(interface, server) as client:
            recording = await client.record(ask(40))
    if client.streams:
        assert len(recording.chunks) > 20
    else:
        assert len(recording.chunks) == 1


async def test_stamps_travel_when_asked_for(interface: str) -> None:
    if "stamps" in interfaces.client(interface).lacks:
        pytest.skip(f"{interface} carries no stamps")
    with thread_server(interface, Watched(interval_ms=1)) as server:
        async with connect(interface, server) as client:
            plain = await client.record(ask(5))
            stamped = await client.record(ask(5, stamps=True))
    assert all(token.stamps is None for token in tokens(plain))
    for chunk in stamped.chunks:
        for event in chunk.events:
            if isinstance(event, labkit.Token):
                assert event.stamps is not None
                hops = event.stamps
                times = [hops.sampled, hops.queued, hops.flushed, hops.written, chunk.received_ns]
                assert times == sorted(times) and times[0] > stamped.sent_ns


@pytest.mark.parametrize("flush", ["token", "tokens:4", "ms:20"])
async def test_flush_policy_groups_and_changes_nothing_else(interface: str, flush: str) -> None:
    interval = {"token": 5.0, "tokens:4": 5.0, "ms:20": 1.0}[flush]
    with thread_server(interface, Watched(interval_ms=interval), flush=flush) as server:
        async with connect(interface, server) as client:
            recording = await client.record(ask(80))
    assert_whole(recording, 80)
    sizes = [sum(isinstance(e, labkit.Token) for e in chunk.events) for chunk in recording.chunks]
    if not client.streams:
        assert sizes == [80]
        return
    # A read may join several writes, so the bounds are one-sided except for the multiples of 4.
    carrying = [size for size in sizes if size]
    if flush == "token":
        assert len(carrying) > 60
    elif flush == "tokens:4":
        assert all(size % 4 == 0 for size in carrying) and 10 < len(carrying) <= 20
    else:
        assert len(carrying) < 40


async def test_flush_policy_turned_while_a_stream_runs(interface: str) -> None:
    if not interfaces.client(interface).streams:
        pytest.skip(f"{interface} does not stream")
    with thread_server(interface, Watched(interval_ms=4)) as server:
        async with connect(interface, server) as client:
            sizes: list[int] = []
            async with aclosing(client.chunks(ask(120))) as chunks:
                async for chunk in chunks:
                    sizes.append(sum(isinstance(event, labkit.Token) for event in chunk.events))
                    if sum(sizes) >= 20:
                        server.tune(flush="tokens:10")
    assert sum(sizes) == 120
    before = next(i for i in range(len(sizes)) if sum(sizes[:i]) >= 20)
    assert max(sizes[: before - 1]) < 10, "one by one at first"
    assert sizes[before + 2 :].count(10) >= 5, "then by tens"


@pytest.mark.parametrize("flush", ["tokens:0", "ms:nan", "sometimes"])
def test_bad_flush_policy_leaves_the_old_one(interface: str, flush: str) -> None:
    with thread_server(interface, Watched(), flush="tokens:3") as server:
        with pytest.raises(InvalidRequest, match="flush policy"):
            server.tune(flush=flush)
        assert str(server.service.flush) == "tokens:3"


REFUSED = {
    "no tokens": ask(0),
    "negative tokens": ask(-1),
    "too many tokens": ask(10**9),
    "NaN temperature": ask(temperature=nan),
    "temperature below": ask(temperature=-1.0),
    "temperature above": ask(temperature=3.0),
    "empty prompt": ask(prompt=""),
    "long prompt": ask(prompt="x" * (MAX_PROMPT_CHARS + 1)),
    "negative seed": ask(seed=-1),
    "seed of 64 bits": ask(seed=2**63),
    "top_p of 0": ask(top_p=0.0),
    "top_p above": ask(top_p=1.5),
    "five stop strings": ask(stop=list("abcde")),
    "empty stop string": ask(stop=[""]),
    "request id with a space": ask(request_id="a b"),
    "prompt that is no text": ask(prompt="\ud800"),
}


async def test_bad_request_is_refused_by_name(interface: str, subtests: pytest.Subtests) -> None:
    engine = Watched(interval_ms=0)
    with thread_server(interface, engine) as server:
        async with connect(interface, server) as client:
            for what, request in REFUSED.items():
                with subtests.test(what):
                    with pytest.raises(InvalidRequest) as refused:
                        await asyncio.wait_for(client.record(request), PATIENCE_S)
                    assert len(str(refused.value)) < 500 and "\n" not in str(refused.value)
                    assert not engine.streams
            assert_whole(await client.record(ask(3)), 3)


async def test_oversized_request_is_refused_and_the_server_lives(interface: str) -> None:
    with thread_server(interface, Watched(interval_ms=0)) as server:
        async with connect(interface, server) as client:
            with pytest.raises(labkit.errors.LabkitError) as refused:
                await asyncio.wait_for(client.record(ask(prompt="x" * 2_000_000)), PATIENCE_S)
            # "Try again later" would be a lie: it will never fit.
            assert not isinstance(refused.value, Overloaded)
            assert_whole(await client.record(ask(3)), 3)


async def test_too_many_streams_are_refused_until_one_has_ended(interface: str) -> None:
    engine = Watched(tokens=100_000, interval_ms=5)
    with thread_server(interface, engine) as server:
        server.service.admission.max_streams = 2
        async with connect(interface, server) as client:
            running = [asyncio.create_task(client.record(ask(60_000))) for _ in range(2)]
            await until(lambda: server.service.open_streams == 2, "two streams are open")
            with pytest.raises(Overloaded, match=r"all places are taken \(2\)"):
                await client.record(ask(3))
            await abandoned(running[0])
            await until(lambda: server.service.open_streams == 1, "one has gone")
            assert_whole(await client.record(ask(3)), 3)
            await abandoned(running[1])


async def test_engine_failure_is_told_and_survived(interface: str) -> None:
    engine = Watched(tokens=20, interval_ms=0, fail_after=5)
    with thread_server(interface, engine) as server:
        async with connect(interface, server) as client:
            recording = await client.record(ask(20))
            assert isinstance(recording.end, labkit.Failed)
            assert recording.end.code == "engine_failed"
            assert "scripted to fail after 5 tokens" in recording.end.message
            # an interface that answers in one piece shows only the failure
            texts = [token.text for token in tokens(recording)]
            assert texts in (script(5), [])
            assert [event.id for event in recording.events] == list(range(len(recording.events)))
            engine.fail_after = None
            assert_whole(await client.record(ask(4)), 4)


async def test_no_server_there_is_said_at_once(interface: str) -> None:
    with thread_server(interface, Watched()) as server:
        url = server.url
    async with connect(interface, url) as client:
        with pytest.raises((labkit.errors.ConnectionLost, Refused)):
            await asyncio.wait_for(client.record(ask(3)), PATIENCE_S)


async def test_engine_closed_under_open_streams_ends_them(interface: str) -> None:
    engine = Watched(tokens=100_000, interval_ms=2)
    with thread_server(interface, engine) as server:
        async with connect(interface, server) as client:
            task = asyncio.create_task(client.record(ask(60_000)))
            await until(lambda: engine.streams and engine.streams[0].produced > 3, "tokens come")
            engine.close()
            (ended,) = await outcomes([task])
    assert isinstance(ended, labkit.Recording) and isinstance(ended.end, labkit.Failed)
    assert ended.end.code == "engine_failed"
