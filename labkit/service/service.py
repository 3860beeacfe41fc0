"""What stands between an engine and any server: admission, flush policy, the streams that are open.

A server file only translates: its protocol's request into `Service.generate`, the groups of events
into its protocol's bytes.
"""

import logging
import time
from collections.abc import Callable, Generator
from math import inf
from types import coroutine
from uuid import uuid4

from labkit.engine.base import Engine
from labkit.errors import EngineFailed, LabkitError, Overloaded, Stopping
from labkit.events import Event, GenerateRequest, Token
from labkit.service.flush import EveryToken, FlushPolicy
from labkit.stream import TokenStream

MAX_STREAMS = 256

_log = logging.getLogger(__name__)


class Service:
    """One server's share of an engine. Used on the server's loop alone, except for `flush`."""

    def __init__(
        self, engine: Engine, flush: FlushPolicy | None = None, max_streams: int = MAX_STREAMS
    ) -> None:
        self.engine = engine
        self.flush: FlushPolicy = flush or EveryToken()  # may be replaced by any thread while streams run
        self.max_streams = max_streams
        self.stopping = False
        self._open: set[Delivery] = set()

    def generate(self, request: GenerateRequest) -> "Delivery":
        """Start to answer; the caller iterates the delivery and closes it whatever happens.

        Raises:
            InvalidRequest: the engine cannot answer this request.
            EngineFailed: the engine is closed, or has broken.
            Overloaded: `max_streams` are open.
            Stopping: the server is going away.
        """
        if request.request_id is None:
            request = request.model_copy(update={"request_id": uuid4().hex[:12]})
        return self.admit(lambda: self.engine.submit(request))

    def admit(self, submit: Callable[[], TokenStream]) -> "Delivery":
        """Open a stream if there is room for one more; raises as `generate`."""
        if self.stopping:
            raise Stopping("the server is stopping")
        if len(self._open) >= self.max_streams:
            raise Overloaded(f"{self.max_streams} streams are open; try again when one has finished")
        try:
            stream = submit()
        except LabkitError:
            raise
        except Exception as error:
            _log.exception("engine %s", self.engine.name)
            raise EngineFailed(f"{self.engine.name} could not begin: {type(error).__name__}") from error
        delivery = Delivery(self, stream)
        self._open.add(delivery)
        return delivery

    def health(self) -> dict[str, str | int]:
        """`status` is `ok` or `stopping`, or `failed` where the engine answers no more: `reason` says why."""
        reason = self.engine.failed
        return {
            "status": "stopping" if self.stopping else "failed" if reason is not None else "ok",
            **({} if reason is None else {"reason": reason}),
            "engine": self.engine.name,
            "flush": str(self.flush),
            "open_streams": self.open_streams,
        }

    @property
    def open_streams(self) -> int:
        return len(self._open)

    @property
    def deliveries(self) -> "list[Delivery]":
        """The answers that are on their way now, for whoever wants to watch their streams."""
        return list(self._open)

    def stop(self) -> None:
        """Refuse new requests and end the open streams, each with a `Failed("stopping")`."""
        self.stopping = True
        for delivery in list(self._open):
            delivery.abort("stopping", "the server is stopping")

    def forget(self, delivery: "Delivery") -> None:
        self._open.discard(delivery)


@coroutine
def _turn() -> Generator[None, None, None]:
    """Let the loop turn once, as `asyncio.sleep(0)` does, at half its cost."""
    yield


class Delivery:
    """One answer on its way out: an async iterator of groups of events, one group a write."""

    def __init__(self, service: Service, stream: TokenStream) -> None:
        self.stream = stream
        self.request_id = stream.request_id
        self._service = service

    def __aiter__(self) -> "Delivery":
        return self

    async def __anext__(self) -> list[Event]:
        # A transport joins what is written in one turn of the loop. A turn for each group keeps every group
        # a write of its own, and lets the other streams take theirs.
        await _turn()
        stream, service = self.stream, self._service
        group: list[Event] = []
        since = 0.0
        while True:
            while (event := stream.pop()) is not None:
                group.append(event)
                age = time.monotonic() - since if since else 0.0
                if type(event) is not Token or service.flush.wait_s(len(group), age) <= 0:
                    return self._flushed(group)
                since = since or time.monotonic()
            if stream.exhausted:
                raise StopAsyncIteration
            wait = service.flush.wait_s(len(group), time.monotonic() - since) if group else inf
            if wait <= 0:
                return self._flushed(group)
            await stream.wait(None if wait == inf else wait)

    def _flushed(self, group: list[Event]) -> list[Event]:
        if self.stream.stamped:
            now = time.monotonic_ns()
            for event in group:
                if type(event) is Token and event.stamps is not None:
                    event.stamps.flushed = now
        return group

    def cancel(self) -> None:
        """Stop the model's work; what is on its way still comes, then `Finished("cancelled")`."""
        self.stream.cancel()

    def abort(self, code: str, message: str) -> None:
        """Stop the model's work; what is on its way still comes, then `Failed(code, message)`."""
        self.stream.abort(code, message)

    async def aclose(self) -> None:
        """Stop the model's work for this answer, if it is not done."""
        self.stream.close()
        self._service.forget(self)
