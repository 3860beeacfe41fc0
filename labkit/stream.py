"""The bounded stream between an engine and a server's loop: order, backpressure and cancellation.

The engine puts events from its own thread, the reader takes them on its event loop. A stream that holds
`high_water` events is not `writable`: the engine does not compute for it until the reader has drained it to
half of that. This is backpressure; `peak` shows that it held.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from typing import Literal, Self

from labkit.events import UNCOUNTED, Event, Failed, Finished, Piece, Started

HIGH_WATER = 64
NEVER = -1


def _nothing() -> None:
    pass


class Stream:
    """One request's events: ids count from 0 without a gap, and the last event is the only terminal one.

    Create it on the reader's running loop. It calls `on_room` on that loop when the engine should look
    again: the buffer has drained after it was full, or the reader has left. `high_water` and `peak` count
    events; `produced` counts the engine's pieces, also those dropped after the reader left. `stamped` says
    whether the request asked for stamps. `tokens` goes into `Finished`: an engine whose pieces are chunks of
    several tokens sets it.
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
        self.tokens = 0
        self.next_id = 0
        self._on_room = on_room
        self._events: deque[Event] = deque()
        self._full = False
        self._wanted = True
        self._last_id = NEVER  # of the terminal event that the engine put
        self._read_id = NEVER
        self._exhausted = False
        self._cut: Callable[[int], Finished | Failed] | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()

    # The engine's side: one thread, any thread.

    @property
    def wanted(self) -> bool:
        """Whether the reader still waits for more; once this is false, the engine drops the request."""
        return self._wanted

    @property
    def writable(self) -> bool:
        """Whether the engine may compute for this stream now: it is wanted and has room."""
        return self._wanted and not self._full

    def started(self, model: str, prompt_tokens: int = 0) -> None:
        if self._wanted:
            self._append(Started(self.next_id, self.request_id, model, prompt_tokens))

    def put(self, piece: Piece) -> None:
        """Add a piece, whose id must be `next_id`. A stream that is no longer `wanted` drops it.

        Raises:
            ValueError: it has another id.
        """
        self.produced += 1
        if piece.id != self.next_id:
            raise ValueError(f"the next piece has id {self.next_id}, not {piece.id}")
        if self._wanted:
            self._append(piece)  # type: ignore[arg-type]  # the union holds every kind of piece

    def finish(self, reason: Literal["stop", "length"]) -> None:
        self._end(Finished(self.next_id, reason, self.produced, self.tokens))

    def fail(self, code: str, message: str) -> None:
        self._end(Failed(self.next_id, code, message))

    def _end(self, terminal: Finished | Failed) -> None:
        if self._wanted:
            self._wanted, self._last_id = False, terminal.id
            self._append(terminal)

    def _append(self, event: Event) -> None:
        self.next_id += 1
        self._events.append(event)
        size = len(self._events)
        if size > self.peak:
            self.peak = size
        if size >= self.high_water:
            self._full = True
            # The reader may have drained the buffer just before it could see `_full`.
            if len(self._events) <= self.high_water // 2:
                self._full = False
        # The reader sets its waiter and then looks at the buffer. The engine fills the buffer and then looks
        # for a waiter. So at least one of them sees the other.
        if self._waiter is None:
            return
        if threading.get_ident() == self._thread:
            self._wake()
            return
        try:
            self._loop.call_soon_threadsafe(self._wake)
        except RuntimeError:  # the reader's loop is closed, so there is no reader
            self._wanted = False

    # The reader's side: only on its loop.

    def pop(self) -> Event | None:
        """The next event if there is one; never waits."""
        if self._exhausted:
            return None
        if self._events:
            event = self._events.popleft()
            self._read_id = event.id
            if event.id == self._last_id:
                self._exhausted = True
            if self._full and len(self._events) <= self.high_water // 2:
                self._full = False
                self._on_room()
            return event
        if self._cut is None:
            return None
        self._exhausted = True
        return self._cut(self._read_id + 1)

    @property
    def exhausted(self) -> bool:
        """Whether the reader has read the terminal event, or has closed the stream."""
        return self._exhausted

    async def wait(self, timeout: float | None = None) -> None:
        """Return when there may be an event, or after `timeout` seconds."""
        self._waiter = waiter = self._loop.create_future()
        try:
            if self._events or self._cut is not None or self._exhausted:
                return
            timer = None if timeout is None else self._loop.call_later(timeout, self._wake)
            try:
                await waiter
            finally:
                if timer is not None:
                    timer.cancel()
        finally:
            self._waiter = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        while (event := self.pop()) is None:
            if self._exhausted:
                raise StopAsyncIteration
            await self.wait()
        return event

    def cancel(self) -> None:
        """Stop the model's work; what the buffer holds still comes, then `Finished("cancelled")`."""
        self._cut_off(lambda id: Finished(id, "cancelled", max(0, id - 1), UNCOUNTED if self.tokens else 0))

    def abort(self, code: str, message: str) -> None:
        """Stop the model's work; what the buffer holds still comes, then `Failed(code, message)`."""
        self._cut_off(lambda id: Failed(id, code, message))

    def close(self) -> None:
        """Stop the model's work and drop the buffer: the reader has gone."""
        self._wanted, self._exhausted = False, True
        self._events.clear()
        self._wake()
        self._on_room()

    async def aclose(self) -> None:
        self.close()

    def _cut_off(self, terminal: Callable[[int], Finished | Failed]) -> None:
        """End the stream on the reader's side; `terminal` makes the last event from an id."""
        if not self._wanted:
            return
        self._wanted = False
        self._cut = terminal
        self._wake()
        self._on_room()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
