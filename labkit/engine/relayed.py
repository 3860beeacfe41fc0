"""The base of every engine that answers on the reader's own loop, with one asyncio task a request."""

import asyncio
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from typing import Any

from labkit.engine.base import interval_ms as milliseconds
from labkit.engine.base import turn
from labkit.engine.text_stream import TokenStream
from labkit.errors import EngineFailed, LabkitError
from labkit.events import GenerateRequest


class RelayedStream(TokenStream):
    """A stream whose task can wait for its reader, and is cancelled when the reader wants no more."""

    def __init__(self, request: GenerateRequest, engine: "RelayedEngine") -> None:
        super().__init__(request.request_id or "", stamped=request.stamps, on_room=self._look)
        self.task: asyncio.Task[None] | None = None
        self.tuned = asyncio.Event()
        self._engine = engine
        self._room = asyncio.Event()
        self._due_s = time.monotonic()

    async def ready(self) -> None:
        """Wait until the next token is due, at the engine's pace after the last, and there is room for it.

        A stream that lags does not catch up. To be called before the end of the stream only.
        """
        last_s, slept = self._due_s, 0.0
        while (interval_ms := self._engine.interval_ms) != slept:
            now = time.monotonic()
            self._due_s = max(last_s + interval_ms / 1e3, now)
            await self._sleep(self._due_s - now)
            slept = interval_ms  # another by now: it was not slept to its end
        while not self.writable:
            self._room.clear()
            await self._room.wait()

    async def _sleep(self, seconds: float) -> None:
        """As `asyncio.sleep`, but only until the engine is tuned."""
        self.tuned.clear()
        timer = self._loop.call_later(seconds, self.tuned.set)
        try:
            await self.tuned.wait()
        finally:
            timer.cancel()

    def _look(self) -> None:
        self._room.set()
        if not self.wanted and self.task is not None:
            self.task.cancel()


class RelayedEngine(ABC):
    """Runs `answer` for each request, as a task that ends with its stream, and its stream with it.

    Args:
        name: what the engine is called in messages and on `/health`.
        interval_ms: the pace, the least time between two tokens of one stream; 0 is as fast as they come.
    """

    def __init__(self, name: str, interval_ms: float = 0.0) -> None:
        self.name = name
        self.interval_ms = milliseconds(interval_ms)
        self._closed = False
        self._tasks: dict[asyncio.Task[None], RelayedStream] = {}

    @abstractmethod
    async def answer(self, request: GenerateRequest, stream: RelayedStream) -> None:
        """Fill the stream: `started`, then for each token `ready` and `token`, `finish` as the very last.

        Cancelled when the reader wants no more, so what it holds belongs into `with` or `finally`. A
        `LabkitError` ends the stream in a `Failed` of its code, any other exception in `engine_failed`.
        """

    @property
    def failed(self) -> str | None:
        return "the engine is closed" if self._closed else None

    def submit(self, request: GenerateRequest) -> TokenStream:
        if self.failed is not None:
            raise EngineFailed(self.failed)
        stream = RelayedStream(request, self)
        stream.task = task = asyncio.get_running_loop().create_task(self._run(request, stream))
        self._tasks[task] = stream
        task.add_done_callback(self._tasks.pop)
        if self._closed:  # just now, by another thread, which may not have seen this stream
            stream.abort("engine_failed", "the engine was closed")
        return stream

    def tune(self, **knobs: Any) -> None:
        turn(self, {"interval_ms": milliseconds}, knobs)
        for task, stream in list(self._tasks.items()):
            with suppress(RuntimeError):  # the loop has ended, and its readers with it
                task.get_loop().call_soon_threadsafe(stream.tuned.set)

    def close(self) -> None:
        self._closed = True
        for task, stream in list(self._tasks.items()):
            with suppress(RuntimeError):  # the loop has ended, and its readers with it
                task.get_loop().call_soon_threadsafe(stream.abort, "engine_failed", "the engine was closed")

    async def _run(self, request: GenerateRequest, stream: RelayedStream) -> None:
        try:
            await self.answer(request, stream)
        except LabkitError as error:
            stream.fail(error.code, str(error))
        except Exception as error:
            stream.fail("engine_failed", f"{self.name}: {type(error).__name__}: {error}")
