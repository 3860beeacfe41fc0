"""An engine with no model: fixed tokens at a fixed pace, so that what is measured is the protocol."""

import asyncio
import time
from contextlib import suppress
from typing import Any

from labkit.engine.base import interval_ms as milliseconds
from labkit.engine.base import turn
from labkit.errors import EngineFailed
from labkit.events import GenerateRequest
from labkit.stream import TokenStream

WORDS = "the quick brown fox jumps over the lazy dog while a small model counts its tokens"
SCRIPT = [f"{word} " for word in WORDS.split()]


class ScriptedEngine:
    """Answers every prompt with the same words, on the reader's own loop and without torch.

    Args:
        tokens: tokens in an answer; a request's `max_tokens` can only shorten it.
        interval_ms: time between two tokens, and before the first.
        fail_after: break with `engine_failed` after so many tokens, to see what an interface makes of it.
    """

    def __init__(self, tokens: int = 256, interval_ms: float = 5.0, fail_after: int | None = None) -> None:
        self.name = "scripted"
        self.tokens = tokens
        self.interval_ms = milliseconds(interval_ms)
        self.fail_after = fail_after
        self._closed = False
        self._tasks: dict[asyncio.Task[None], TokenStream] = {}

    def submit(self, request: GenerateRequest) -> TokenStream:
        if self._closed:
            raise EngineFailed("the engine is closed")
        room = asyncio.Event()
        stream = TokenStream(request.request_id or "", stamped=request.stamps, on_room=room.set)
        task = asyncio.get_running_loop().create_task(self._answer(request, stream, room))
        self._tasks[task] = stream
        task.add_done_callback(self._tasks.pop)
        return stream

    def tune(self, **knobs: Any) -> None:
        turn(self, {"interval_ms": milliseconds}, knobs)

    def close(self) -> None:
        self._closed = True
        for task, stream in list(self._tasks.items()):
            with suppress(RuntimeError):  # the loop has ended, and its readers with it
                task.get_loop().call_soon_threadsafe(stream.abort, "engine_failed", "the engine was closed")

    async def _answer(self, request: GenerateRequest, stream: TokenStream, room: asyncio.Event) -> None:
        stream.started(self.name, len(request.prompt.split()))
        due = time.monotonic()
        count = min(self.tokens, request.max_tokens)
        for index in range(count):
            if self.interval_ms > 0:
                due = await self._pace(due)
            while not stream.writable:
                if not stream.wanted:
                    return
                room.clear()
                await room.wait()
            if index == self.fail_after:
                stream.fail("engine_failed", f"scripted to fail after {index} tokens")
                return
            stream.token(SCRIPT[index % len(SCRIPT)], time.monotonic_ns())
        stream.finish("stop" if count == self.tokens else "length")

    async def _pace(self, due: float) -> float:
        """Sleep until a token is due, one interval after the last; a stream that lags does not catch up."""
        now = time.monotonic()
        due = max(due + self.interval_ms / 1e3, now)
        await asyncio.sleep(due - now)
        return due
