"""The text/event-stream format, written and parsed as the HTML standard defines it (section 9.2).

https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

import re
from dataclasses import dataclass

from labkit.errors import ConnectionLost
from labkit.wire import MAX_MESSAGE

_LINE_END = re.compile(rb"\r\n|\r|\n")


def encode(data: bytes, event: bytes, id: int) -> bytes:
    """Write one event block; `data` must have no line break in it, as JSON has none."""
    return b"event: %b\nid: %d\ndata: %b\n\n" % (event, id, data)


@dataclass(frozen=True, slots=True)
class ServerSentEvent:
    """One event as a browser dispatches it; `last_id` is what `Last-Event-ID` would be after it."""

    data: str
    event: str = "message"
    last_id: str = ""


class Parser:
    """Turns bytes into events, wherever a read cuts them; `retry` is the last reconnection time in ms.

    It follows the standard in every case that its tests name. It strips one BOM. CR, LF and CRLF all end a
    line, and a CR ends it at once. It passes over comments, unknown fields and an id with a NUL. A block with
    nothing but an id sets the id without an event. It drops an unfinished event.

    Its work is linear in the bytes, however small the reads are. It holds `MAX_MESSAGE` bytes at most.
    """

    def __init__(self) -> None:
        self.last_id = ""
        self.retry: int | None = None
        self._rest = bytearray()  # of a line whose end has not come
        self._at_start = True
        self._after_cr = False
        self._data: list[str] = []
        self._size = 0  # of the lines of data
        self._event = ""
        self._id = ""

    def feed(self, chunk: bytes) -> list[ServerSentEvent]:
        """The events that these bytes complete, in order.

        Raises:
            ConnectionLost: an event, or a line, is over `MAX_MESSAGE` bytes.
        """
        if self._at_start:
            chunk = bytes(self._rest) + chunk
            self._rest.clear()
            if len(chunk) < 3 and b"\xef\xbb\xbf".startswith(chunk):
                self._rest += chunk
                return []
            self._at_start = False
            chunk = chunk.removeprefix(b"\xef\xbb\xbf")
        if self._after_cr and chunk:
            chunk = chunk.removeprefix(b"\n")
            self._after_cr = False
        self._after_cr = self._after_cr or chunk.endswith(b"\r")
        lines = _LINE_END.split(chunk)
        rest = lines.pop()
        if lines and self._rest:
            lines[0] = bytes(self._rest) + lines[0]
            self._rest.clear()
        events = [event for line in lines if (event := self._line(line)) is not None]
        if rest:
            self._rest += rest
            self._check()
        return events

    def _check(self) -> None:
        if len(self._rest) + self._size > MAX_MESSAGE:
            raise ConnectionLost(f"an event of the stream is over {MAX_MESSAGE} bytes, which is the limit")

    def _line(self, raw: bytes) -> ServerSentEvent | None:
        if not raw:
            return self._dispatch()
        line = raw.decode("utf-8", "replace")
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "data":
            self._data.append(value)
            self._size += len(raw)
            if self._size > MAX_MESSAGE:
                self._check()
        elif field == "event":
            self._event = value
        elif field == "id" and "\0" not in value:
            self._id = value
        elif field == "retry" and value.isascii() and value.isdigit() and len(value) < 16:
            self.retry = int(value)
        return None

    def _dispatch(self) -> ServerSentEvent | None:
        self.last_id = self._id
        data, event = self._data, self._event
        self._data, self._event, self._size = [], "", 0
        if not data:
            return None
        return ServerSentEvent("\n".join(data), event or "message", self.last_id)
