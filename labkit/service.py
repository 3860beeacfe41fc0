"""What stands between an engine and any server: admission, flush policy, the streams that are open.

A server file only translates: its protocol's request into `Service.generate`, the groups of events
into its protocol's bytes.
"""

import time
from math import inf
from uuid import uuid4

from labkit.engine.base import Engine
from labkit.errors import Overloaded, Stopping
from labkit.events import Event, GenerateRequest, Token
from labkit.flush import EveryToken, FlushPolicy
from labkit.stream import TokenStream

MAX_STREAMS = 256


class Service:
    """One server's share of an engine. Used on the server's loop alone, except for `flush`."""

    def __init__(self, engine: Engine, flush: FlushPolicy | None = None, max_streams: int = MAX_STREAMS) -> None:
        self.engine = engine
        self.flush: FlushPolicy = flush or EveryToken()  # may be replaced by any thread while streams run
        self.max_streams = max_streams
        self.stopping = False
        self._open: set[Delivery] = set()

    def generate(self, request: GenerateRequest) -> "Delivery":
        """Start to answer; the caller iterates the delivery and closes it whatever happens.

        Raises:
            InvalidRequest: the engine cannot answer this request.
            Overloaded: `max_streams` are open.
            Stopping: the server is going away.
        """
        if self.stopping:
            raise Stopping("the server is stopping")
        if len(self._open) >= self.max_streams:
            raise Overloaded(f"{self.max_streams} streams are open; try again when one has finished")
        if request.request_id is None:
            request = request.model_copy(update={"request_id": uuid4().hex[:12]})
        delivery = Delivery(self, self.engine.submit(request))
        self._open.add(delivery)
        return delivery

    def health(self) -> dict[str, str | int]:
        return {
            "status": "stopping" if self.stopping else "ok",
            "engine": self.engine.name,
            "flush": str(self.flush),
            "open_streams": self.open_streams,
        }

    @property
    def open_streams(self) -> int:
        return len(self._open)

    def stop(self) -> None:
        """Refuse new requests and end the open streams, each with a `Failed("stopping")`."""
        self.stopping = True
        for delivery in list(self._open):
            delivery.stream.abort("stopping", "the server is stopping")

    def forget(self, delivery: "Delivery") -> None:
        self._open.discard(delivery)


class Delivery:
    """One answer on its way out: an async iterator of groups of events, one group a write."""

    def __init__(self, service: Service, stream: TokenStream) -> None:
        self.stream = stream
        self._service = service

    def __aiter__(self) -> "Delivery":
        return self

    async def __anext__(self) -> list[Event]:
        stream = self.stream
        group: list[Event] = []
        since = 0.0
        while True:
            while (event := stream.pop()) is not None:
                group.append(event)
                if type(event) is not Token:
                    return _flushed(group)
                since = since or time.monotonic()
                if self._service.flush.wait_s(len(group), time.monotonic() - since) <= 0:
                    return _flushed(group)
            if stream.exhausted:
                if group:
                    return _flushed(group)
                raise StopAsyncIteration
            if not group:
                await stream.wait()
                continue
            wait = self._service.flush.wait_s(len(group), time.monotonic() - since)
            if wait <= 0:
                return _flushed(group)
            await stream.wait(None if wait == inf else wait)

    async def aclose(self) -> None:
        """Stop the model's work for this answer, if it is not done."""
        self.stream.close()
        self._service.forget(self)


def _flushed(group: list[Event]) -> list[Event]:
    for event in group:
        if type(event) is Token and event.stamps is not None:
            event.stamps.flushed = time.monotonic_ns()
    return group
