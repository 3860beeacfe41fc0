"""Which hosts are this machine, and that none of labkit's clients asks them through a proxy."""

import socket
from types import SimpleNamespace

import psutil
import pytest
from support import ask, assert_whole, connect, free_port, thread_server

from labkit.net.loopback import is_this_machine

LOOPBACK = [
    "127.0.0.1",
    "127.0.0.2",
    "127.255.255.254",
    "::1",
    "[::1]",
    "0:0:0:0:0:0:0:1",
    "::ffff:127.0.0.1",
]
UNSPECIFIED = ["0.0.0.0", "::"]
SHORT = ["127.1", "127.0.1", "2130706433", "0x7f.1", "0"]
NAMES = ["localhost", "LOCALHOST", "localhost.", "a.localhost", socket.gethostname()]
OTHERS = [
    "",
    "128.0.0.1",
    "192.0.2.7",
    "2001:db8::7",
    "example.org",
    "localhost.example.org",
    "127.0.0.1.nip.io",
    "127.0.0.1 example.org",
    "128.1",
]


@pytest.mark.parametrize("host", [*LOOPBACK, *UNSPECIFIED, *SHORT, *NAMES])
def test_this_machine(host: str) -> None:
    assert is_this_machine(host)


def test_the_addresses_of_its_interfaces_are_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [(socket.AF_INET, "192.0.2.9"), (socket.AF_INET6, "fe80::9%eth0"), (socket.AF_UNIX, "9:9:9")]
    cards = {"eth0": [SimpleNamespace(family=family, address=address) for family, address in entries]}
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: cards)
    assert is_this_machine("192.0.2.9")
    assert is_this_machine("[fe80::9]")
    assert not is_this_machine("192.0.2.8")


@pytest.mark.parametrize("host", OTHERS)
def test_other_machines(host: str) -> None:
    assert not is_this_machine(host)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "0.0.0.0"])
async def test_a_client_asks_this_machine_without_the_proxy(
    interface: str, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "ALL_PROXY", "GRPC_PROXY", "WS_PROXY", "NO_PROXY", "NO_GRPC_PROXY"):
        for variable in (name, name.lower()):
            monkeypatch.setenv(variable, "" if name.startswith("NO_") else f"http://127.0.0.1:{free_port()}")
    with socket.socket() as sock:
        try:
            sock.bind((host, 0))
        except OSError as error:
            pytest.skip(f"this system has no {host}: {error}")
    with thread_server(interface, "scripted:tokens=3,interval_ms=0", host=host) as server:
        async with connect(interface, server) as client:
            assert_whole(await client.record(ask(3)), 3)
