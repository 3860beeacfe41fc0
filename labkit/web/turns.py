"""Feeds a connection's bytes to its protocol in portions, so that no connection holds the loop for long.

A loop gives a protocol up to 256 KiB at once. That can be 40,000 empty WebSocket frames, seconds of work, in
which every other stream waits. A portion of 1 KiB is some milliseconds of the costliest work. The rest stays
in the kernel's buffer until the next turn of the loop, and TCP slows its sender.
"""

import asyncio
from typing import Protocol

PORTION = 1024
MOST_UNSENT = 256 * 1024  # four times what lets an answer wait; replies to pings come on top of answers


class Fed(Protocol):
    """What uvicorn's HTTP and WebSocket protocols have in common."""

    @property
    def holds_reading(self) -> bool:
        """Whether the protocol itself has paused reading."""
        ...

    def connection_made(self, transport: asyncio.Transport) -> None: ...
    def connection_lost(self, exc: Exception | None) -> None: ...
    def data_received(self, data: bytes) -> None: ...
    def eof_received(self) -> None: ...
    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...


class Turns(asyncio.BufferedProtocol):
    """Stands between a transport and the protocol that it feeds.

    It also reads no more from a peer that takes none of the replies to what it sends, such as pongs.
    """

    def __init__(self, fed: Fed) -> None:
        self._fed = fed
        self._buffer = bytearray(PORTION)
        self._loop = asyncio.get_running_loop()
        self._blocked = False  # the transport's buffer is over its high-water mark
        self._waits = False  # for the transport's buffer to drain

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        self._fed.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._fed.connection_lost(exc)

    def eof_received(self) -> None:
        self._fed.eof_received()

    def get_buffer(self, sizehint: int) -> bytearray:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._fed.data_received(bytes(self._buffer[:nbytes]))
        transport = self._transport
        if (protocol := transport.get_protocol()) is not self:  # HTTP has become WebSocket
            self._fed = protocol  # type: ignore[assignment]
            transport.set_protocol(self)
        if self._blocked and transport.get_write_buffer_size() > MOST_UNSENT:
            self._waits = True
            transport.pause_reading()
        elif nbytes == PORTION:
            transport.pause_reading()
            self._loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        if not self._waits and not self._fed.holds_reading and not self._transport.is_closing():
            self._transport.resume_reading()

    def pause_writing(self) -> None:
        self._blocked = True
        self._fed.pause_writing()

    def resume_writing(self) -> None:
        self._blocked = self._waits = False
        self._fed.resume_writing()
        self._go_on()
