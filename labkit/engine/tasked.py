"""The base of engines that answer on the reader's own loop, with one asyncio task for each request."""

import asyncio
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from typing import Any

from labkit.engine.options import Options
from labkit.engine.pacer import Pacer
from labkit.engine.text_stream import TokenStream
from labkit.errors import EngineFailed, LabkitError
from labkit.events import GenerateRequest


class TaskStream(TokenStream):
    """A stream whose task can wait for its reader, and is cancelled when the reader leaves."""

    def __init__(self, request: GenerateRequest, engine: "TaskEngine") -> None:
        super().__init__(request.request_id or "", stamped=request.stamps, on_room=self._look)
        self.task: asyncio.Task[None] | None = None
        self.tuned = asyncio.Event()
        self._engine = engine
        self._room = asyncio.Event()
        self._pacer = Pacer(time.monotonic())

    async def ready(self) -> None:
        """Wait until the next token is due, at the engine's pace, and the stream has room for it.

        Call it before each token, and not after the end of the stream.
        """
        if self._engine.interval_ms:
            await self._keep_pace()
        while not self.writable:
            self._room.clear()
            await self._room.wait()

    async def _keep_pace(self) -> None:
        interval_ms, due_s = -1.0, 0.0
        while interval_ms != self._engine.interval_ms:  # the engine may be tuned during the sleep
            interval_ms, now_s = self._engine.interval_ms, time.monotonic()
            self._pacer.ask(now_s)
            due_s = self._pacer.due_s(interval_ms)
            await self._sleep(due_s - now_s)
        self._pacer.emitted(due_s)

    async def _sleep(self, seconds: float) -> None:
        """Sleep so long, or until the engine is tuned."""
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


class TaskEngine(ABC):
    """Runs `answer` for each request as a task. The task ends with its stream, and the stream with its task.

    Args:
        name: what the engine is called in messages and on `/health`.
        interval_ms: the pace, the least time between two tokens of one stream; 0 is as fast as they come.
    """

    def __init__(self, name: str, interval_ms: float = 0.0) -> None:
        self.name = name
        self.interval_ms = Options.checked({"interval_ms": interval_ms}).interval_ms
        self._closed = False
        self._tasks: dict[asyncio.Task[None], TaskStream] = {}

    @abstractmethod
    async def answer(self, request: GenerateRequest, stream: TaskStream) -> None:
        """Fill the stream: `started`, then `ready` and `token` for each token, then `finish`.

        The engine cancels it when the reader leaves, so free resources by `with` or `finally`. A
        `LabkitError` ends the stream in a `Failed` with its code, any other exception in `engine_failed`.
        """

    @property
    def failed(self) -> str | None:
        return "the engine is closed" if self._closed else None

    def submit(self, request: GenerateRequest) -> TokenStream:
        if self.failed is not None:
            raise EngineFailed(self.failed)
        stream = TaskStream(request, self)
        stream.task = task = asyncio.get_running_loop().create_task(self._run(request, stream))
        self._tasks[task] = stream
        task.add_done_callback(self._tasks.pop)
        if self._closed:  # another thread closed the engine just now and may not know this stream
            stream.abort("engine_failed", "the engine was closed")
        return stream

    def tune(self, **knobs: Any) -> None:
        self.interval_ms = Options(self.interval_ms).turned(self.name, knobs).interval_ms
        for task, stream in list(self._tasks.items()):
            with suppress(RuntimeError):  # the loop has ended, and its readers with it
                task.get_loop().call_soon_threadsafe(stream.tuned.set)

    def close(self) -> None:
        self._closed = True
        for task, stream in list(self._tasks.items()):
            with suppress(RuntimeError):  # the loop has ended, and its readers with it
                task.get_loop().call_soon_threadsafe(stream.abort, "engine_failed", "the engine was closed")

    async def _run(self, request: GenerateRequest, stream: TaskStream) -> None:
        try:
            await self.answer(request, stream)
        except LabkitError as error:
            stream.fail(error.code, str(error))
        except Exception as error:
            stream.fail("engine_failed", f"{self.name}: {type(error).__name__}: {error}")
