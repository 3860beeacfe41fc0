"""How labkit logs: a failure is one line of its logger, and the traceback is one more at the level DEBUG.

By default nobody sees the lines, so that nothing is written into a notebook. `labkit serve` shows them, and
so does `logging.getLogger("labkit").addHandler(logging.StreamHandler())`.
"""

import asyncio
import logging
import os
import traceback

from labkit.errors import in_one_line

# What uvloop says of a write to a socket that was closed in this turn of the loop, and gRPC of one to a call.
CLOSED = ("the handler is closed", 'Failed "execute_batch"')


REFUSED = "ASGI callable returned without completing handshake."
"""What uvicorn says of every WebSocket handshake that labkit refuses; the client has the reason."""


def keep_to_the_log() -> None:
    """Make this process write none of labkit's log to stderr by itself, nor gRPC's."""
    logging.getLogger("labkit").addHandler(logging.NullHandler())
    logging.getLogger("asyncio").addFilter(lambda record: not _is_grpc_to_a_closed_loop(record))
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # labkit reports the same as an error


def _is_grpc_to_a_closed_loop(record: logging.LogRecord) -> bool:
    """Whether gRPC calls back into a loop that has ended; it does so from whichever other loop there is."""
    error = record.exc_info[1] if record.exc_info else None
    return "PollerCompletionQueue" in record.getMessage() and str(error) == "Event loop is closed"


def failure(log: logging.Logger, what: str, error: BaseException) -> None:
    """Log that `what` failed with this error."""
    log.error("%s: %s", what, one_line(error))
    log.debug("%s", what, exc_info=error)


def one_line(error: BaseException) -> str:
    """An error in one line, with the place where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({os.path.basename(frames[-1].filename)}, line {frames[-1].lineno})" if frames else ""
    return in_one_line(error) + place


def adopt(name: str) -> None:
    """Let another library's logger write only to `labkit.<name>`, one line a record."""
    theirs = logging.getLogger(name)
    theirs.handlers = [_OneLine(logging.getLogger(f"labkit.{name}"))]
    theirs.propagate = False


class _OneLine(logging.Handler):
    """Hands records on as one line each; drops an error that only says that a peer or the server has gone."""

    def __init__(self, log: logging.Logger) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        what = " ".join(record.getMessage().split())
        error = record.exc_info[1] if record.exc_info else None
        if what == REFUSED:
            return
        if error is None:
            self._log.log(record.levelno, "%s", what)
        elif not has_left(error):
            failure(self._log, what, error)


def has_left(error: BaseException) -> bool:
    """Whether the error only says that the peer has gone, or that the server's loop ends."""
    if isinstance(error, ConnectionError | asyncio.CancelledError):
        return True
    return any(words in str(error) for words in CLOSED)
