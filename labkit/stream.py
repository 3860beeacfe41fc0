"""The bounded stream between an engine and a server's loop: order, backpressure and cancellation.

The engine puts from its own thread, the reader takes on its event loop. A stream that holds
`high_water` events is not `writable`: the engine does not schedule it until the reader has drained it
to the half. That is backpressure, and `peak` shows that it held.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Literal

from labkit.events import Event, Failed, Finished, Stamps, Started, Terminal, Token

HIGH_WATER = 64


def _nothing() -> None:
    pass


class TokenStream:
    """One request's events: ids contiguous from 0, exactly one terminal event, and it is the last.

    `high_water` and `peak` count events.
    Made on the reader's running loop. `on_room` is called on that loop when the engine should look
    again: the buffer has drained after it was full, or the reader wants no more.
    """

    def __init__(
        self,
        request_id: str,
        *,
        stamped: bool = False,
        high_water: int = HIGH_WATER,
        on_room: Callable[[], None] = _nothing,
    ) -> None:
        self.request_id = request_id
        self.high_water = high_water
        self.peak = 0
        self.produced = 0
        self.stamped = stamped
        self._on_room = on_room
        self._events: deque[Event] = deque()
        self._next_id = 0
        self._full = False
        self._ended = False
        self._closed = False
        self._read_id = -1
        self._read_tokens = 0
        self._done = False
        self._cut: Failed | Finished | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()

    # The engine's side: one thread, any.

    @property
    def wanted(self) -> bool:
        """Whether the reader still waits for more; once false, the engine drops the request."""
        return not (self._closed or self._ended)

    @property
    def writable(self) -> bool:
        """Whether the engine may compute for this stream now: it is wanted and has room."""
        return not (self._full or self._closed or self._ended)

    def started(self, model: str, prompt_tokens: int) -> None:
        self._put(Started(self._next_id, self.request_id, model, prompt_tokens))

    def token(self, text: str, sampled_ns: int = 0) -> None:
        """Add one token; `sampled_ns` is when the engine chose it (`time.monotonic_ns`)."""
        self.produced += 1
        stamps = Stamps(sampled_ns, time.monotonic_ns()) if self.stamped else None
        self._put(Token(self._next_id, text, stamps))

    def finish(self, reason: Literal["stop", "length"]) -> None:
        self._put(Finished(self._next_id, reason, self.produced))
        self._ended = True

    def fail(self, code: str, message: str) -> None:
        self._put(Failed(self._next_id, code, message))
        self._ended = True

    def _put(self, event: Event) -> None:
        if self._closed or self._ended:
            return
        self._next_id += 1
        self._events.append(event)
        held = len(self._events)
        if held > self.peak:
            self.peak = held
        if held >= self.high_water:
            self._full = True
            # The reader may have drained the buffer just before it could see `_full`.
            if len(self._events) <= self.high_water // 2:
                self._full = False
        # The reader sets its waiter and then looks at the buffer; we fill the buffer and then look for
        # a waiter. One of the two always sees the other.
        if self._waiter is None:
            return
        if threading.get_ident() == self._thread:
            self._wake()
            return
        try:
            self._loop.call_soon_threadsafe(self._wake)
        except RuntimeError:  # the reader's loop is closed: nobody is left to read
            self._closed = True

    # The reader's side: its loop alone.

    def pop(self) -> Event | None:
        """The next event if one is there; never waits."""
        if self._done:
            return None
        if self._events:
            event = self._events.popleft()
            self._read_id = event.id
            if type(event) is Token:
                self._read_tokens += 1
            elif isinstance(event, Terminal):
                self._done = True
            if self._full and len(self._events) <= self.high_water // 2:
                self._full = False
                self._on_room()
            return event
        if self._cut is not None:
            self._done = True
            self._cut.id = self._read_id + 1
            if isinstance(self._cut, Finished):
                self._cut.completion_tokens = self._read_tokens
        return self._cut

    @property
    def exhausted(self) -> bool:
        """Whether the terminal event was read, or the reader has closed the stream."""
        return self._done

    async def wait(self, timeout: float | None = None) -> None:
        """Return when an event may be there, or after `timeout` seconds."""
        self._waiter = waiter = self._loop.create_future()
        try:
            if self._events or self._cut is not None or self.exhausted:
                return
            timer = None if timeout is None else self._loop.call_later(timeout, self._wake)
            try:
                await waiter
            finally:
                if timer is not None:
                    timer.cancel()
        finally:
            self._waiter = None

    def __aiter__(self) -> "TokenStream":
        return self

    async def __anext__(self) -> Event:
        while (event := self.pop()) is None:
            if self.exhausted:
                raise StopAsyncIteration
            await self.wait()
        return event

    def cancel(self) -> None:
        """Stop the model's work; what is buffered still comes, then `Finished("cancelled")`."""
        self._end_here(Finished(0, "cancelled", 0))

    def abort(self, code: str, message: str) -> None:
        """Stop the model's work; what is buffered still comes, then `Failed(code, message)`."""
        self._end_here(Failed(0, code, message))

    def close(self) -> None:
        """The reader has gone: stop the model's work and drop what is buffered."""
        self._closed = self._done = True
        self._events.clear()
        self._wake()
        self._on_room()

    async def aclose(self) -> None:
        self.close()

    def _end_here(self, terminal: Finished | Failed) -> None:
        if not self.wanted:
            return
        self._closed = True
        self._cut = terminal
        self._wake()
        self._on_room()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
