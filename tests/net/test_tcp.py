"""What the kernel says of a connection, against what its two ends did."""

import socket
import sys
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest
from support import PATIENCE_S

from labkit.net.tcp import Observer, Sight

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux's kernel says it")

Ends = tuple[socket.socket, socket.socket]


@pytest.fixture(params=["127.0.0.1", "::1", "::ffff:127.0.0.1"])
def ends(request: pytest.FixtureRequest) -> Iterator[Ends]:
    """A server's end of a connection and its client's, on one machine."""
    host = request.param
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:
        try:
            listener.bind((host, 0))
        except OSError as error:
            pytest.skip(f"this machine has no {host}: {error}")
        listener.listen()
        with socket.create_connection(listener.getsockname()[:2]) as client:
            server, _ = listener.accept()
            with server:
                yield server, client


@pytest.fixture
def observer() -> Iterator[Observer]:
    observer = Observer()
    yield observer
    observer.close()


def look(observer: Observer, server: socket.socket) -> Sight:
    sight = observer.look(server)
    assert sight is not None
    return sight


def settled_waiting(observer: Observer, server: socket.socket) -> int:
    end = time.monotonic() + PATIENCE_S
    while (waiting := observer.waiting(server)) and time.monotonic() < end:
        time.sleep(0.005)
    return waiting


def test_taken_is_what_the_program_has_read(ends: Ends, observer: Observer) -> None:
    server, client = ends
    server.sendall(b"x" * 5_000)
    assert observer.read_by_peer(server) == 0
    client.recv(1)
    assert observer.read_by_peer(server) == 1
    client.recv(2_999)
    assert observer.read_by_peer(server) == 3_000


def test_waiting_is_what_the_peer_has_not_acknowledged(ends: Ends, observer: Observer) -> None:
    server, _ = ends
    assert observer.waiting(server) == 0
    server.setblocking(False)
    sent = 0
    with suppress(BlockingIOError):
        while sent < 2**30:
            sent += server.send(b"x" * 65_536)
    assert 0 < observer.waiting(server) <= sent


def test_acknowledged_is_what_the_kernel_of_the_peer_has(ends: Ends, observer: Observer) -> None:
    server, _ = ends
    server.sendall(b"x" * 5_000)
    assert settled_waiting(observer, server) == 0
    assert look(observer, server) == Sight(acknowledged=5_000)


def test_what_cannot_be_asked_is_not_known(ends: Ends, observer: Observer) -> None:
    observer.close()
    assert observer.read_by_peer(ends[0]) is None


def test_peer_that_has_closed_is_seen(ends: Ends, observer: Observer) -> None:
    server, client = ends
    client.close()
    end = time.monotonic() + PATIENCE_S
    while not look(observer, server).closed and time.monotonic() < end:
        time.sleep(0.005)
    assert look(observer, server).closed
