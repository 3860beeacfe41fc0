"""Which interfaces there are: found through entry points, so that anybody's package can add one.

A package offers an interface `NAME` with two entry points, `labkit.servers` and `labkit.clients`, both
called NAME: a `create(service) -> Listener` and a subclass of `labkit.client.Client`.
"""

from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any, Protocol

from labkit.client import Client
from labkit.errors import StartError
from labkit.service.service import Service

FIRST = ("rest", "sse", "websocket", "grpc")


class Listener(Protocol):
    """One protocol's server around a service, on the running loop. `scheme` begins its URL."""

    scheme: str

    async def start(self, host: str, port: int) -> int:
        """Listen on the address (port 0: any free one) and return the port.

        Raises:
            StartError: the address cannot be listened on.
        """

    async def stop(self) -> None:
        """Close all connections. The service's streams have ended before."""


Create = Callable[[Service], Listener]


def names() -> list[str]:
    """Interfaces that have both a server and a client: the four basic ones first, then by name."""
    both = _points("labkit.servers").keys() & _points("labkit.clients").keys()
    return [name for name in FIRST if name in both] + sorted(both - set(FIRST))


def server(interface: str | ModuleType | Create) -> Create:
    """The `create` of an interface, given its name, its server module or the function itself.

    Raises:
        StartError: no installed package offers an interface of that name.
    """
    if isinstance(interface, str):
        create: Create = _load("labkit.servers", interface)
        return create
    if isinstance(interface, ModuleType):
        create = interface.create
        return create
    return interface


def client(name: str) -> type[Client]:
    """The client class of an interface.

    Raises:
        StartError: no installed package offers an interface of that name.
    """
    kind: type[Client] = _load("labkit.clients", name)
    return kind


def reference(create: Create) -> str:
    """`module:name`, by which another process can import a server."""
    return f"{create.__module__}:{create.__qualname__}"


def dereference(text: str) -> Create:
    module, _, name = text.partition(":")
    create: Create = getattr(import_module(module), name)
    return create


def _points(group: str) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=group)}


@cache
def _load(group: str, name: str) -> Any:
    points = _points(group)
    if name not in points:
        raise StartError(
            f"no interface {name!r}: there are {', '.join(sorted(points)) or 'none (pip install -e .)'}"
        )
    return points[name].load()
