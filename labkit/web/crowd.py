"""Keeps descriptors for whoever comes next: one connection too many ends the one that has waited longest."""

import sys
from threading import Lock
from typing import Protocol


class Member(Protocol):
    """A connection in a crowd."""

    def evict(self) -> None:
        """End the connection, if it still waits for its client. May be called from any thread."""


class Crowd:
    """The connections of all HTTP-borne servers of a process, which may run in several threads.

    A process has so many descriptors, and whoever opens connections and says nothing could take them all. So
    there is a limit below that, and beyond it the connection goes whose client has been silent for longest.

    Args:
        limit: connections at once. Half of them may be WebSockets, which stay for as long as they like.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._lock = Lock()
        self._open = 0
        self._waiting: dict[Member, None] = {}  # in the order in which they began to wait

    @property
    def takes_sockets(self) -> bool:
        """Whether a connection that is at work may become a WebSocket."""
        return self._open - len(self._waiting) <= self.limit // 2

    def enter(self, member: Member) -> None:
        """Count one connection more."""
        oldest = None
        with self._lock:
            self._open += 1
            if self._open > self.limit:
                oldest = next(iter(self._waiting), None)
            if oldest is not None:
                del self._waiting[oldest]
        if oldest is not None:
            oldest.evict()

    def leave(self, member: Member) -> None:
        """A connection has ended."""
        with self._lock:
            self._open -= 1
            self._waiting.pop(member, None)

    def wait(self, member: Member) -> None:
        """This connection's client is to speak."""
        with self._lock:
            self._waiting[member] = None

    def work(self, member: Member) -> None:
        """This connection's server is to answer."""
        with self._lock:
            self._waiting.pop(member, None)


def limit() -> int:
    """Three quarters of the descriptors that this process may open; the rest is for files and clients."""
    if sys.platform == "win32":
        return 8_192
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 2**31 if soft == resource.RLIM_INFINITY else soft * 3 // 4


CROWD = Crowd(limit())
"""All of this process."""
