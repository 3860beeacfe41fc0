"""A reader that is slow and steady reads on, however fast the engine; one that stops reading is cut."""

import asyncio
import math
import socket
import time

import pytest
from raw_client import connections, dial, dial_websocket, post, text_frame
from support import PATIENCE_S, Watched, http_borne, thread_server, until

from labkit.launch.threaded import ThreadServer
from labkit.web import patience

QUESTION = b'{"type":"generate","prompt":"x","max_tokens":60000,"stamps":true}'
PACE = 4_000  # bytes a second, forty tokens
SHORTEST_S = 0.5


def asked(interface: str, server: ThreadServer) -> socket.socket:
    """A client that has sent its question and read nothing."""
    if interface == "websocket":
        client = dial_websocket(server)
        client.sendall(text_frame(QUESTION))
    else:
        client = dial(server)
        client.sendall(post(QUESTION.replace(b'"type":"generate",', b"")))
    return client


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Judges within a second, and allows nothing for bites: this reader takes small ones."""
    monkeypatch.setattr(patience, "EVERY_S", 0.1)
    monkeypatch.setattr(patience, "SHORTEST_S", SHORTEST_S)
    monkeypatch.setattr(patience, "SLOW_PACE", math.inf)


@pytest.mark.usefixtures("impatient")
@pytest.mark.skipif(not hasattr(socket, "AF_NETLINK"), reason="elsewhere than on Linux patience is longer")
@pytest.mark.parametrize("interface", http_borne())
async def test_slow_reader_reads_on_until_it_stops(interface: str) -> None:
    engine = Watched(tokens=60_000, interval_ms=0)
    with thread_server(interface, engine) as server:
        with asked(interface, server) as client:
            await until(lambda: engine.streams and engine.streams[0].produced > 1_000, "tokens come")
            client.settimeout(PATIENCE_S)
            end = time.monotonic() + 4 * SHORTEST_S
            while time.monotonic() < end:
                assert client.recv(PACE // 20)
                await asyncio.sleep(1 / 20)
                assert connections(server) == 1, "a steady reader was cut"
            await until(lambda: not connections(server), "a reader that has stopped is cut")
        await until(lambda: server.service.open_streams == 0, "its work has ended")
