"""uvicorn's HTTP/1.1 protocol for clients that pipeline: bounded, and quiet when they leave."""

import asyncio
from typing import Any

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle


class _Flow(FlowControl):
    """Reads no further while requests wait for their turn. uvicorn reads on after each answer."""

    def __init__(self, protocol: "Pipeline") -> None:
        super().__init__(protocol.transport)
        self._queued = protocol.pipeline

    def resume_reading(self) -> None:
        if not self._queued:
            super().resume_reading()


class Pipeline(HttpToolsProtocol):
    """Answers pipelined requests one by one; what waits meanwhile is one portion's requests at most.

    When the client leaves, it tells the request under way. uvicorn tells the one that came last, and starts
    those in between on a closed connection.
    """

    _current: RequestResponseCycle | None = None

    @property
    def holds_reading(self) -> bool:
        return self.flow.read_paused

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = _Flow(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.pipeline.clear()
        if self._answers and self._current is not None:
            self._current.disconnected = True
            self._current.message_event.set()
        super().connection_lost(exc)

    def handle_websocket_upgrade(self) -> None:
        if self._answers:
            self.transport.abort()  # the socket's frames would fall between the answer's bytes
        else:
            super().handle_websocket_upgrade()

    @property
    def _answers(self) -> bool:
        """Whether a response is under way."""
        return self._current is not None and not self._current.response_complete

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._current = cycle
        super()._start_asgi_task(cycle, app)
