"""The registry of interfaces: their order, unknown names, packages that break, imports one at a time."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import EntryPoint
from types import SimpleNamespace
from typing import Any

import pytest

from labkit import interfaces
from labkit.client import Client
from labkit.errors import StartError


class Offered(SimpleNamespace):
    """An entry point whose `load` is given."""

    load: Any


@pytest.fixture
def points(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """The entry points of both groups, for a test to fill."""
    offered: dict[str, Any] = {}
    monkeypatch.setattr(interfaces, "_points", lambda group: offered)
    interfaces._load.cache_clear()
    yield offered
    interfaces._load.cache_clear()


def client_of_rank(rank: int) -> type[Client]:
    return type("Ranked", (Client,), {"rank": rank})


def test_interfaces_come_by_rank_then_by_name(points: dict[str, Any]) -> None:
    for name, rank in (("d", 2), ("c", 100), ("b", 1), ("a", 100)):
        points[name] = Offered(load=lambda rank=rank: client_of_rank(rank))
    assert interfaces.names() == ["b", "d", "a", "c"]
    assert interfaces.installed() == ["a", "b", "c", "d"]


def test_the_four_basic_interfaces_come_first() -> None:
    assert interfaces.names()[:4] == ["rest", "sse", "websocket", "grpc"]


def test_a_name_that_nobody_offers_lists_those_there_are(points: dict[str, Any]) -> None:
    points["sse"] = Offered(load=lambda: None)
    with pytest.raises(StartError, match="no interface 'pigeon': there are sse"):
        interfaces.client("pigeon")


@pytest.mark.parametrize("value", ["nowhere.pigeon:create", "labkit.interfaces:pigeon"])
def test_an_interface_that_cannot_be_imported_is_one_line(points: dict[str, Any], value: str) -> None:
    points["pigeon"] = EntryPoint("pigeon", value, "labkit.servers")
    with pytest.raises(StartError, match=r"interface 'pigeon': .*; `labkit doctor`") as error:
        interfaces.server("pigeon")
    assert "\n" not in str(error.value)


def test_an_interface_that_breaks_at_its_import_leaves_the_others_alone(points: dict[str, Any]) -> None:
    def broken() -> type[Client]:
        raise RuntimeError("no wings\nand no beak")

    points["pigeon"] = Offered(load=broken)
    points["sse"] = Offered(load=lambda: client_of_rank(1))
    assert interfaces.installed() == ["pigeon", "sse"]
    assert interfaces.names() == ["sse"]
    with pytest.raises(StartError, match="interface 'pigeon': RuntimeError: no wings; `labkit doctor`"):
        interfaces.client("pigeon")


def test_interfaces_are_imported_one_at_a_time(points: dict[str, Any]) -> None:
    """Two threads that import parts of one package at the same time may see it half imported."""
    importing: list[str] = []

    def load(name: str) -> type[Client]:
        importing.append(name)
        time.sleep(0.02)
        assert importing == [name]
        importing.remove(name)
        return client_of_rank(0)

    for name in "abcd":
        points[name] = Offered(load=lambda name=name: load(name))
    with ThreadPoolExecutor(4) as pool:
        assert len(list(pool.map(interfaces.client, points))) == 4


def test_a_server_survives_the_way_to_another_process_as_text(interface: str) -> None:
    create = interfaces.server(interface)
    assert interfaces.dereference(interfaces.reference(create)) is create
