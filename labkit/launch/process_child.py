"""What the subprocess of a `ProcessServer` runs: a server in a thread. Each order turns its knobs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from labkit import interfaces
from labkit.launch.server import ServerOptions
from labkit.launch.threaded import ThreadServer


@contextmanager
def work(
    name: str, create: str, engine: str, options: dict[str, Any]
) -> Iterator[tuple[dict[str, Any], Callable[..., None]]]:
    """Serve, and yield the address and `tune`; `create` is a function's name, as `reference` returns it."""
    with ThreadServer(name, interfaces.dereference(create), engine, ServerOptions(**options)) as server:
        yield {"scheme": server.url.partition("://")[0], "port": server.port}, server.tune
