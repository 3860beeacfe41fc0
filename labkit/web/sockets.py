"""uvicorn's WebSocket protocol with what it lacks: a quiet end for wrong bytes, a bound on fragments."""

from websockets.frames import CloseCode, Frame

from labkit.web.deadlines import CountedSocket

MOST_FRAGMENTS = 4096  # of one message; an empty one adds nothing to its size, which the library bounds


class Sockets(CountedSocket):
    """Closes with 1007 where a text is not UTF-8, with 1009 where a message has too many fragments."""

    @property
    def holds_reading(self) -> bool:
        return self.read_paused

    def handle_cont(self, event: Frame) -> None:
        if self.close_sent or len(self.frames) < MOST_FRAGMENTS:
            super().handle_cont(event)
        else:
            self._refuse(CloseCode.MESSAGE_TOO_BIG, f"a message has at most {MOST_FRAGMENTS} fragments")

    def send_receive_event_to_app(self) -> None:
        is_text = self.curr_msg_data_type == "text" and not self.close_sent
        if is_text and not _is_utf8(b"".join(self.frames)):
            self._refuse(CloseCode.INVALID_DATA, "a text frame is not UTF-8")
        else:
            super().send_receive_event_to_app()

    def _refuse(self, code: CloseCode, reason: str) -> None:
        self.frames = []
        self.conn.fail(code, reason)
        self.handle_parser_exception()


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
