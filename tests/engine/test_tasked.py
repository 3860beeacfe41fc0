"""Engines that answer with tasks: the pace of their streams."""

import asyncio

import pytest
from support import PATIENCE_S, script

from labkit.engine.scripted import ScriptedEngine
from labkit.errors import InvalidRequest
from labkit.events import GenerateRequest, Token
from labkit.stream import HIGH_WATER

REQUEST = GenerateRequest(prompt="Once", max_tokens=200)


async def test_without_a_pace_a_stream_fills_in_one_turn_of_the_loop() -> None:
    """A sleep for each token, even of 0 s, would cost many times as much as the token."""
    stream = ScriptedEngine(interval_ms=0).submit(REQUEST)
    await asyncio.sleep(0)
    assert stream.produced == HIGH_WATER - 1, "with `started` the stream is full"


async def test_a_slow_pace_can_be_undone_while_a_token_waits() -> None:
    engine = ScriptedEngine(interval_ms=3_600_000)
    stream = engine.submit(REQUEST)
    for _ in range(3):
        await asyncio.sleep(0)
    assert stream.produced == 0
    engine.tune(interval_ms=0)
    async with asyncio.timeout(PATIENCE_S):
        events = [event async for event in stream]
    assert [event.text for event in events if isinstance(event, Token)] == script(200)


def test_a_wrong_knob_is_refused_and_the_pace_stays() -> None:
    engine = ScriptedEngine(interval_ms=5)
    with pytest.raises(InvalidRequest, match="engine 'scripted' has no knob 'speed': it has interval_ms"):
        engine.tune(interval_ms=7, speed=3)
    assert engine.interval_ms == 5
