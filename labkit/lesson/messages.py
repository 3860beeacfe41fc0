"""A WebSocket on which a chapter sends and receives raw messages."""

import json
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from websockets.protocol import State
from websockets.sync.client import connect


class Messages:
    """JSON messages to and from a WebSocket server, without labkit's client."""

    def __init__(self, url: str) -> None:
        self._stack = ExitStack()
        self._socket = self._stack.enter_context(connect(url, compression=None, proxy=None))

    @property
    def open(self) -> bool:
        return self._socket.state is State.OPEN

    def send(self, message: Mapping[str, Any]) -> None:
        self._socket.send(json.dumps(message))

    def receive(self, count: int) -> list[dict[str, Any]]:
        """Wait for at least `count` messages; there may be more, since one frame can bring several.

        Raises:
            TimeoutError: nothing came for 30 s.
        """
        received: list[dict[str, Any]] = []
        while len(received) < count:
            frame = json.loads(self._socket.recv(timeout=30))
            received += frame if isinstance(frame, list) else [frame]
        return received

    def until_end(self, *request_ids: str) -> list[dict[str, Any]]:
        """Wait for the end of each of these requests, and return all messages up to the last one's."""
        waiting = set(request_ids)
        received: list[dict[str, Any]] = []
        while waiting:
            received += self.receive(1)
            waiting -= {m["request_id"] for m in received if m["type"] in ("finished", "failed")}
        return received

    def close(self) -> None:
        self._stack.close()
