"""What one connection may cost the others: it sends without end, and reads nothing or all of it."""

import asyncio
import gc
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import httpx
import psutil
import pytest
from raw_client import CHUNKED, GET, MASK, dial, dial_websocket, text_frame
from support import Watched, http_borne, thread_server

from labkit.launch.threaded import ThreadServer

FRAMES = {
    "empty pong": b"\x8a\x80" + MASK,
    "empty ping": b"\x89\x80" + MASK,
    "full ping": b"\x89\xfd" + MASK + b"x" * 125,
    "short text": b"\x81\x81" + MASK + b"?",
    "empty text": b"\x81\x80" + MASK,
}
MOST = 64 * 2**20
FLOOD_S = 0.5


class Flood(threading.Thread):
    """Sends a portion over and over from a socket of its own; in between it reads, if it `reads`."""

    def __init__(self, client: socket.socket, portion: bytes, reads: bool) -> None:
        super().__init__(name="flood")
        self.sent = 0
        self._client = client
        self._portion = portion * max(1, 256 * 1024 // len(portion))
        self._reads = reads
        self._over = threading.Event()

    def run(self) -> None:
        self._client.setblocking(False)
        with suppress(ConnectionError):
            while not self._over.is_set():
                with suppress(BlockingIOError):
                    while self._reads and self._client.recv(1 << 20):
                        pass
                with suppress(BlockingIOError):
                    # The rest of a portion that was taken in part comes next, so that frames stay whole.
                    self.sent += self._client.send(self._portion[self.sent % len(self._portion) :])
                    continue
                time.sleep(0.002)

    def stop(self) -> None:
        self._over.set()
        self.join()
        self._client.close()


@contextmanager
def flooded(client: socket.socket, portion: bytes, reads: bool = False) -> Iterator[Flood]:
    flood = Flood(client, portion, reads)
    flood.start()
    try:
        yield flood
    finally:
        flood.stop()


def grown_by(flood: Flood) -> int:
    """The most that the memory grows by until the server takes no more, or has taken 32 MiB."""
    process = psutil.Process()
    before = process.memory_info().rss
    grown, since, sent = 0, time.monotonic(), 0
    while time.monotonic() - since < FLOOD_S and grown < MOST:
        time.sleep(0.02)
        grown = max(grown, process.memory_info().rss - before)
        if sent < flood.sent < 32 * 2**20:
            sent, since = flood.sent, time.monotonic()
    return grown


@pytest.mark.parametrize("interface", http_borne())
def test_requests_whose_answers_nobody_reads_are_not_read(interface: str) -> None:
    with thread_server(interface, Watched()) as server, flooded(dial(server), GET) as flood:
        assert grown_by(flood) < MOST
        with httpx.Client(trust_env=False) as client:
            assert client.get(f"http://127.0.0.1:{server.port}/health").status_code == 200


@pytest.mark.parametrize("kind", ["empty ping", "full ping", "short text"])
def test_frames_whose_replies_nobody_reads_are_not_read(kind: str) -> None:
    with (
        thread_server("websocket", Watched()) as server,
        flooded(dial_websocket(server), FRAMES[kind]) as flood,
    ):
        assert grown_by(flood) < MOST


async def longest_turn_s(server: ThreadServer, for_s: float = 0.6) -> float:
    """The most processor time that one turn of the server's loop takes. In a turn all others wait."""
    assert server._running is not None

    async def beat() -> float:
        longest, loop = 0.0, asyncio.get_running_loop()
        end, last = loop.time() + for_s, time.thread_time()
        while loop.time() < end:
            await asyncio.sleep(0)
            now = time.thread_time()
            longest, last = max(longest, now - last), now
        return longest

    gc.disable()  # a collection looks at all that the tests of this process have left, in one turn
    try:
        return await asyncio.wrap_future(server._running.thread.submit(beat()))
    finally:
        gc.enable()


ENDLESS = {
    **FRAMES,
    "fragments": b"\x01\x80" + MASK + (b"\x00\x80" + MASK) * 1_000 + b"\x80\x80" + MASK,
    "questions": text_frame(b'{"type":"generate","prompt":"x","max_tokens":1}'),
    "requests": GET,
    "small chunks": b"POST /nothing" + CHUNKED + b"1\r\nx\r\n" * 100 + b"0\r\n\r\n",
}


@pytest.mark.parametrize("kind", ENDLESS)
async def test_whatever_comes_without_end_takes_little_of_one_turn(kind: str) -> None:
    of_http = kind in ("requests", "small chunks")
    with thread_server("sse" if of_http else "websocket", Watched()) as server:
        client = dial(server) if of_http else dial_websocket(server)
        with flooded(client, ENDLESS[kind], reads=True) as flood:
            assert await longest_turn_s(server) < 0.05
            assert flood.sent > 0
