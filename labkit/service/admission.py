"""Who may open how many streams: every limit on open streams stands here."""

from collections import Counter
from dataclasses import dataclass

from labkit.errors import Overloaded

MAX_STREAMS = 256
MAX_PER_CONNECTION = 32
SPARE_PART = 8


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks.

    Args:
        host: the peer's address, as the server's socket sees it; empty where there is none.
        connection: names a connection that carries many answers at once, such as a WebSocket; empty where
            the protocol keeps its connections to itself.
    """

    host: str = ""
    connection: str = ""


class Admission:
    """Counts open streams and refuses one too many. Use it on the server's loop alone.

    A host may take every place while it is alone. When all are taken, there is an eighth more for hosts that
    hold less than an equal share, and the last half of that for hosts that hold nothing. So a newcomer is
    answered at once, and as answers end, places move to it until each host holds an equal share (max-min
    fairness).

    Args:
        max_streams: of all callers together, but for the eighth.
        max_per_connection: on one connection that its callers name.
    """

    def __init__(self, max_streams: int = MAX_STREAMS, max_per_connection: int = MAX_PER_CONNECTION) -> None:
        self.max_streams = max_streams
        self.max_per_connection = max_per_connection
        self.open_streams = 0
        self._of_host: Counter[str] = Counter()
        self._on_connection: Counter[str] = Counter()

    def enter(self, caller: Caller) -> None:
        """Count one more stream of this caller's; `leave` gives its place back.

        Raises:
            Overloaded: there is no place for it.
        """
        if not self._has_place(caller.host):
            raise Overloaded(
                f"all places are taken ({self.max_streams}); try again when an answer has finished"
            )
        if caller.connection:
            if self._on_connection[caller.connection] >= self.max_per_connection:
                raise Overloaded(f"all places of this connection are taken ({self.max_per_connection})")
            self._on_connection[caller.connection] += 1
        self._of_host[caller.host] += 1
        self.open_streams += 1

    def leave(self, caller: Caller) -> None:
        """A stream of this caller's has closed."""
        self.open_streams -= 1
        _count_down(self._of_host, caller.host)
        if caller.connection:
            _count_down(self._on_connection, caller.connection)

    def _has_place(self, host: str) -> bool:
        if self.open_streams < self.max_streams:
            return True
        held = self._of_host[host]
        hosts = len(self._of_host) + (not held)
        spare = self.max_streams // SPARE_PART
        room = self.max_streams + (spare // 2 if held else spare)
        return held < self.max_streams // hosts and self.open_streams < room


def _count_down(counter: Counter[str], name: str) -> None:
    counter[name] -= 1
    if not counter[name]:
        del counter[name]
