"""A thread with an event loop of its own, for servers and for the streams of a notebook."""

import asyncio
import concurrent.futures
import logging
import sys
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from labkit.log import failure, has_left

_log = logging.getLogger(__name__)

T = TypeVar("T")

AT_END: list[Callable[[asyncio.AbstractEventLoop], None]] = []
"""Each is called with a loop that ends, on the loop's own thread, before it closes."""


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Return a loop of uvloop, which halves the cost of a token; on Windows, which lacks it, of asyncio."""
    if sys.platform == "win32":
        return asyncio.new_event_loop()
    import uvloop

    return uvloop.new_event_loop()


class LoopThread:
    """A daemon thread that runs an event loop until it is closed.

    A notebook's own loop stands still while a cell computes. This loop does not.
    """

    def __init__(self, name: str) -> None:
        self.loop = new_event_loop()
        self.loop.set_exception_handler(_complain)
        self._closing = threading.Lock()
        self.thread = threading.Thread(target=self._run, name=name, daemon=True)
        try:
            self.thread.start()  # waits for the thread to begin
        except KeyboardInterrupt:
            self.loop.call_soon_threadsafe(self.loop.stop)
            raise

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> "concurrent.futures.Future[T]":
        """Start a coroutine on the loop and return at once.

        Raises:
            RuntimeError: the loop is closed.
        """
        try:
            return asyncio.run_coroutine_threadsafe(coroutine, self.loop)
        except RuntimeError:
            coroutine.close()  # else Python warns of a coroutine that never ran
            raise

    def run(self, coroutine: Coroutine[Any, Any, T], timeout: float | None = None) -> T:
        """Run a coroutine on the loop and return its result. An interrupt of the wait cancels the coroutine.

        Raises:
            TimeoutError: the coroutine took longer than `timeout` seconds, and is cancelled.
        """
        future = self.submit(coroutine)
        try:
            return future.result(timeout)
        except BaseException:
            future.cancel()
            raise

    def close(self, timeout: float = 2.0) -> None:
        """Cancel what still runs and end the thread, within some `timeout` seconds. May be called twice."""
        if self._closing.acquire(blocking=False):  # the first caller takes the lock for good
            self.loop.call_soon_threadsafe(self.loop.stop)
        if self.thread is not threading.current_thread():
            self.thread.join(timeout)

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
        finally:
            self.loop.run_until_complete(_cancel_all())
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            for release in AT_END:
                release(self.loop)
            self.loop.close()


def _complain(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log what no task handles as one line; by default asyncio logs a traceback."""
    error = context.get("exception")
    if error is None:
        _log.error("%s", context["message"])
    elif not has_left(error):
        failure(_log, context["message"], error)


async def _cancel_all() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=1.0)
