"""Ends a connection whose client keeps a server waiting: silent, or with a request that does not arrive."""

import asyncio
from contextlib import suppress
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from labkit.web.crowd import CROWD
from labkit.web.refusals import raw_refusal

PATIENCE_S = 10.0
TOO_LATE = "the request did not arrive in time; send it whole and at once"
TOO_MANY_SOCKETS = "too many WebSockets are open; try again when one has closed"


class Deadlines(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 protocol with a limit on the time for which it waits for its client.

    The time runs from the connection, from the end of a response, and anew from the first byte of a request
    to its last, so a client gains nothing by sending byte after byte. Where a request has begun, 408 is the
    answer. uvicorn itself watches the pause after a response alone, and up to the next byte.
    """

    _timer: asyncio.TimerHandle | None = None
    _arriving = False
    _asked: Any = None  # uvicorn's cycle of the request that arrives, once its headers are complete
    _upgraded = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_client()
        CROWD.enter(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._await_server()
        CROWD.leave(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._look()

    def on_message_begin(self) -> None:
        self._await_server()  # `_look` starts the time anew
        self._arriving, self._asked = True, None
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self._asked = self.cycle

    def on_message_complete(self) -> None:
        self._arriving = False
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._look()

    def handle_websocket_upgrade(self) -> None:
        self._await_server()
        if not CROWD.takes_sockets:
            self.refuse(503, "overloaded", TOO_MANY_SOCKETS)
            return
        self._upgraded = True
        CROWD.leave(self)
        super().handle_websocket_upgrade()

    def refuse(self, status: int, code: str, message: str) -> None:
        """End the connection with a refusal, or without one where it would become part of a response."""
        if self._owes or (self._arriving and self._asked is not None and self._asked.response_started):
            self.transport.abort()
        else:
            self.transport.write(raw_refusal(status, code, message))
            self.transport.close()

    def evict(self) -> None:
        """End the connection if it waits for its client; any thread may call this."""
        with suppress(RuntimeError):  # its loop is closed, and so is the connection
            self.loop.call_soon_threadsafe(self._make_room)

    def _make_room(self) -> None:
        if self._timer is not None:
            self.transport.abort()

    @property
    def _owes(self) -> bool:
        """Whether a request that has arrived whole has no whole response yet."""
        if self._arriving and self._asked is not None:
            return bool(self.pipeline)
        return self.cycle is not None and not self.cycle.response_complete

    def _look(self) -> None:
        if self._upgraded or self._owes or self.transport.is_closing():
            self._await_server()
        else:
            self._await_client()

    def _await_client(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(PATIENCE_S, self._expired)
            CROWD.wait(self)

    def _await_server(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            CROWD.work(self)

    def _expired(self) -> None:
        if self._arriving:
            self.refuse(408, "invalid_request", TOO_LATE)
        else:
            self.transport.close()


class CountedSocket(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket protocol; it counts in the crowd from the upgrade to its end."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        CROWD.enter(self)

    def connection_lost(self, exc: Exception | None) -> None:
        CROWD.leave(self)
        super().connection_lost(exc)

    def evict(self) -> None:
        """Stay: it never waits for its client."""
