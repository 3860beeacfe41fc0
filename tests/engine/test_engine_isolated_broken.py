"""An engine that breaks in its subprocess is broken on this side too, with the same reason."""

import asyncio
from typing import Any

import pytest
from support import PATIENCE_S, until

from labkit.background import LoopThread
from labkit.engine import isolated
from labkit.engine.isolated import IsolatedEngine
from labkit.engine.isolated_child import _listen
from labkit.engine.scripted import ScriptedEngine
from labkit.errors import EngineFailed
from labkit.events import Failed, GenerateRequest
from labkit.service.service import Service
from labkit.stream import Stream


def request(max_tokens: int) -> GenerateRequest:
    return GenerateRequest(prompt="one two three", max_tokens=max_tokens)


async def end(stream: Stream) -> Failed:
    async with asyncio.timeout(PATIENCE_S):
        *_, last = [event async for event in stream]
    assert isinstance(last, Failed)
    return last


class Breakable(ScriptedEngine):
    """A scripted engine that may break."""

    broken: str | None = None

    @property
    def failed(self) -> str | None:
        return self.broken or super().failed


class ChildHere:
    """Stands for a subprocess whose engine runs in this process."""

    running = True

    def __init__(self, address: dict[str, Any]) -> None:
        self.address = address

    def ready(self, patience_s: float) -> dict[str, Any]:
        return self.address

    def close(self) -> None: ...


async def test_an_engine_that_breaks_inside_is_broken_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    inner, thread = Breakable(tokens=60_000, interval_ms=1, fail_after=20), LoopThread("labkit-inside")
    address = {"name": inner.name, "port": thread.run(_listen(inner))}
    monkeypatch.setattr(isolated, "Child", lambda *_, **__: ChildHere(address))
    engine = IsolatedEngine("scripted")
    await end(engine.submit(request(60_000)))
    assert engine.failed is None, "one that failed is no broken engine"
    stream = engine.submit(request(60_000))
    await until(lambda: stream.produced, "tokens come")
    inner.broken = "the engine stopped: MemoryError"
    assert (await end(stream)).message == "scripted to fail after 20 tokens"
    assert engine.failed == Service(engine).health()["reason"] == inner.broken
    for what in (lambda: engine.submit(request(1)), lambda: engine.tune(interval_ms=2)):
        with pytest.raises(EngineFailed, match=inner.broken):
            what()
    engine._broken = None  # as another parent, which has not been told
    assert (await end(engine.submit(request(1)))).message == inner.broken
    assert engine.failed == inner.broken
    engine.close()
    await asyncio.to_thread(thread.close)
