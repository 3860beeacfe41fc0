"""One answer on its way out: events become groups, as the flush policy says, and each group is one write."""

import time
from collections.abc import Callable, Generator
from math import inf
from types import coroutine

from labkit.events import Event, Group, Piece
from labkit.service.flush import FlushKnob
from labkit.stream import Stream


@coroutine
def _turn() -> Generator[None, None, None]:
    """Let the loop turn once, as `asyncio.sleep(0)` does, at half its cost."""
    yield


class Delivery:
    """An async iterator over the groups of one answer. Close it after the iteration, whatever happens.

    Args:
        stream: the answer's events.
        flush: the policy in force; it may change meanwhile.
        on_close: is called once, with this delivery, when it closes.
    """

    def __init__(self, stream: Stream, flush: FlushKnob, on_close: "Callable[[Delivery], None]") -> None:
        self.stream = stream
        self.request_id = stream.request_id
        self._flush = flush
        self._on_close = on_close
        self._closed = False

    def __aiter__(self) -> "Delivery":
        return self

    async def __anext__(self) -> Group:
        # A transport joins the writes of one turn of the loop. With a turn for each group, every group is a
        # write of its own, and the other streams get their turns.
        await _turn()
        stream, flush = self.stream, self._flush
        events: list[Event] = []
        since_s = 0.0
        while True:
            while (event := stream.pop()) is not None:
                events.append(event)
                if flush.at_once or not isinstance(event, Piece):
                    return self._group(events)
                age_s = time.monotonic() - since_s if since_s else 0.0
                if flush.policy.wait_s(len(events), age_s) <= 0:
                    return self._group(events)
                since_s = since_s or time.monotonic()
            if stream.exhausted:
                raise StopAsyncIteration
            wait_s = flush.policy.wait_s(len(events), time.monotonic() - since_s) if events else inf
            if wait_s <= 0:
                return self._group(events)
            await stream.wait(None if wait_s == inf else wait_s)

    def _group(self, events: list[Event]) -> Group:
        return Group(events, time.monotonic_ns()) if self.stream.stamped else Group(events)

    def cancel(self) -> None:
        """Stop the model's work; what is on its way still comes, then `Finished("cancelled")`."""
        self.stream.cancel()

    def abort(self, code: str, message: str) -> None:
        """Stop the model's work; what is on its way still comes, then `Failed(code, message)`."""
        self.stream.abort(code, message)

    async def aclose(self) -> None:
        """Stop the model's work for this answer, if there is any left. Safe to call twice."""
        if not self._closed:
            self._closed = True
            self.stream.close()
            self._on_close(self)
