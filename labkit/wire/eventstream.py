"""The text/event-stream format, written and parsed as the HTML standard defines it (section 9.2).

https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

import re
from dataclasses import dataclass

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
    """

    def __init__(self) -> None:
        self.last_id = ""
        self.retry: int | None = None
        self._rest = b""
        self._at_start = True
        self._after_cr = False
        self._data: list[str] = []
        self._event = ""
        self._id = ""

    def feed(self, chunk: bytes) -> list[ServerSentEvent]:
        """The events that these bytes complete, in order."""
        if self._at_start:
            chunk = self._rest + chunk
            self._rest = b""
            if len(chunk) < 3 and b"\xef\xbb\xbf".startswith(chunk):
                self._rest = chunk
                return []
            self._at_start = False
            chunk = chunk.removeprefix(b"\xef\xbb\xbf")
        if self._after_cr and chunk:
            chunk = chunk.removeprefix(b"\n")
            self._after_cr = False
        self._after_cr = self._after_cr or chunk.endswith(b"\r")
        *lines, self._rest = _LINE_END.split(self._rest + chunk)
        events = (self._line(line.decode("utf-8", "replace")) for line in lines)
        return [event for event in events if event is not None]

    def _line(self, line: str) -> ServerSentEvent | None:
        if not line:
            return self._dispatch()
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "data":
            self._data.append(value)
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
        self._data, self._event = [], ""
        if not data:
            return None
        return ServerSentEvent("\n".join(data), event or "message", self.last_id)
