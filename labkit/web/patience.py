"""Cuts a connection whose peer takes nothing of what waits for it, or has gone.

TCP_USER_TIMEOUT does not serve, since it also ends a connection whose peer reads steadily with a full receive
buffer. Progress is what the peer's program has read (see `labkit/net/tcp.py`), looked at every second.

Who takes nothing for ten seconds is cut. But programs read in bites: one read takes 64 KiB, which lasts a
person at ten tokens a second for a minute, and meanwhile the program takes nothing. So a bite earns the time
in which a slow reader reads it. Whoever takes more within a second than one read can is a fast reader and
earns nothing. What a program on another machine reads is hidden: its kernel acknowledges all that fits into
its buffer, then nothing until a sixteenth of it is free, for 30 to 80 s at 500 to 1,000 bytes a second. Such
a peer has 120 s.

While the reading of a connection is paused, the loop does not see that its peer leaves; the kernel does.
"""

import asyncio
from collections.abc import Collection
from typing import Protocol

from labkit.net.tcp import Observer

EVERY_S = 1.0
SHORTEST_S = 10.0
LONGEST_S = 120.0
SLOW_PACE = 500.0  # bytes a second; ten tokens are 750 bytes of WebSocket, 950 of an event stream
LARGEST_READ = 256 * 1024  # bytes; asyncio takes no more at once
EACH_TURN = 64  # connections that are looked at in one turn of the loop


class Connection(Protocol):
    """What uvicorn keeps of a connection, HTTP or WebSocket."""

    transport: asyncio.Transport


class Peer:
    """What is known of a connection's peer."""

    def __init__(self) -> None:
        self.acknowledged = 0
        self.taken = 0
        self._idle_s = 0.0
        self._patience_s = SHORTEST_S

    def has_left(self, taken: int, exact: bool, waiting: int, elapsed_s: float) -> bool:
        """Take in one more look; returns whether the connection is to be cut.

        Args:
            taken: bytes since it connected.
            exact: whether the peer's program took them; else they left this machine.
            waiting: bytes that the peer could take now.
            elapsed_s: the time since the last look.
        """
        bite, self.taken = taken - self.taken, taken
        self._idle_s = 0.0 if bite or not waiting else self._idle_s + elapsed_s
        if not exact:
            self._patience_s = LONGEST_S
        elif bite:
            earned_s = 0.0 if bite > LARGEST_READ else bite / SLOW_PACE
            self._patience_s = min(max(earned_s, SHORTEST_S), LONGEST_S)
        return self._idle_s > self._patience_s


class Patience:
    """Watches the members of a set of connections that others keep, until it is cancelled."""

    def __init__(self, connections: Collection[Connection]) -> None:
        self._connections = connections
        self._observer = Observer()
        self._peers: dict[Connection, Peer] = {}

    async def watch(self) -> None:
        loop = asyncio.get_running_loop()
        looked = loop.time()
        try:
            while True:
                await asyncio.sleep(EVERY_S)
                elapsed_s, looked = loop.time() - looked, loop.time()
                # If the loop stood still, that is not the peers' fault.
                await self._look_at_all(min(elapsed_s, 2 * EVERY_S))
        finally:
            self._observer.close()

    async def _look_at_all(self, elapsed_s: float) -> None:
        self._peers = {each: self._peers.get(each) or Peer() for each in self._connections}
        for index, (connection, peer) in enumerate(list(self._peers.items()), 1):
            if self._has_left(connection.transport, peer, elapsed_s):
                connection.transport.abort()
            if index % EACH_TURN == 0:
                await asyncio.sleep(0)

    def _has_left(self, transport: asyncio.Transport, peer: Peer, elapsed_s: float) -> bool:
        sock = transport.get_extra_info("socket")
        if sock is None or sock.fileno() < 0:
            return False
        buffered = transport.get_write_buffer_size()
        try:
            waiting = buffered + self._observer.waiting(sock)
            sight = self._observer.look(sock)
            if sight is None:
                return peer.has_left(-buffered, False, waiting, elapsed_s)
            if sight.unheard_s > SHORTEST_S or (sight.closed and not transport.is_closing()):
                return True
            if not waiting and sight.acknowledged == peer.acknowledged:
                return False  # nothing to take, and nothing was
            peer.acknowledged = sight.acknowledged
            read = self._observer.read_by_peer(sock)
        except OSError:
            return True  # the connection was reset
        taken = sight.acknowledged if read is None else read
        return peer.has_left(taken, read is not None, waiting, elapsed_s)
