"""The installed interfaces. Entry points name them, so that any package can add one.

A package offers an interface with two entry points of the interface's name: one in `labkit.servers`, a
`create(service) -> Listener`, and one in `labkit.clients`, a subclass of `labkit.client.Client`.

    [project.entry-points."labkit.servers"]
    sse = "servers.sse:create"

    [project.entry-points."labkit.clients"]
    sse = "clients.sse:SSEClient"
"""

from collections.abc import Callable
from contextlib import suppress
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from threading import RLock
from types import ModuleType
from typing import Any, Protocol

from labkit.client import Client
from labkit.errors import StartError
from labkit.service.service import Service


class Listener(Protocol):
    """One protocol's server around a service, on the running loop. `scheme` is the scheme of its URL."""

    scheme: str

    async def start(self, host: str, port: int) -> int:
        """Listen on the address and return the port. Port 0 takes any free one.

        Raises:
            StartError: the port is in use, or the address is not one of this machine's.
        """

    async def stop(self) -> None:
        """Close all connections. The caller has ended the service's streams before."""


Create = Callable[[Service], Listener]

_importing = RLock()


def installed() -> list[str]:
    """The interfaces that have both a server and a client, by name. This imports neither."""
    return sorted(_points("labkit.servers").keys() & _points("labkit.clients").keys())


def names() -> list[str]:
    """The interfaces that have both a server and a client, in the order of the clients' ranks.

    One whose client cannot be imported is left out, so that it does not break the others. `client` says why,
    and so does `labkit doctor`.
    """
    ranks: dict[str, int] = {}
    for name in installed():
        with suppress(StartError):
            ranks[name] = client(name).rank
    return sorted(ranks, key=lambda name: (ranks[name], name))


def server(interface: str | ModuleType | Create) -> Create:
    """The `create` of an interface, from its name, its server module or the function itself.

    Raises:
        StartError: no installed package offers an interface of that name, or its server cannot be imported.
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
        StartError: no installed package offers an interface of that name, or its client cannot be imported.
    """
    kind: type[Client] = _load("labkit.clients", name)
    return kind


def reference(create: Create) -> str:
    """`module:name`, by which another process can import a server."""
    return f"{create.__module__}:{create.__qualname__}"


def dereference(text: str) -> Create:
    """The server that `reference` named."""
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
    try:
        # Threads that import parts of one package at the same time may see it half imported.
        with _importing:
            return points[name].load()
    except Exception as error:  # a package may raise anything
        cause = f"{type(error).__name__}: {first_line(error)}"
        raise StartError(f"interface {name!r}: {cause}; `labkit doctor` shows what is missing") from error


def first_line(error: Exception) -> str:
    """The first line of an error's message."""
    return next(iter(str(error).splitlines()), "")
