"""One call starts a server in a thread or a subprocess and returns a handle that stops it.

    server = labkit.serve("sse", engine)
    with labkit.serve("sse", "scripted") as server: ...

A notebook's cell that may be run again begins with `labkit.stop_all()`.
"""

import weakref
from types import ModuleType
from typing import Literal

from labkit import interfaces
from labkit.engine import Engine, close_engines
from labkit.errors import StartError
from labkit.interfaces import Create
from labkit.launch.process import ProcessServer
from labkit.launch.server import Server, ServerOptions
from labkit.launch.threaded import ThreadServer
from labkit.service.admission import MAX_STREAMS

_started: weakref.WeakSet[Server] = weakref.WeakSet()


def serve(
    interface: str | ModuleType | Create,
    engine: Engine | str = "tiny",
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    flush: str = "token",
    max_streams: int = MAX_STREAMS,
    isolation: Literal["thread", "process"] = "thread",
) -> Server:
    """Start a server and return once it answers.

    Args:
        interface: a name (`"sse"`), a server module (`servers.sse`) or its `create`.
        engine: an engine, which several servers may share, or a text such as `"scripted:tokens=64"`. From a
            text the server makes an engine of its own, which it closes when it stops.
        port: 0 takes any free one. A server of this process that has the port is stopped first.
        flush: the flush policy at the start; `Server.tune` changes it while streams run.
        max_streams: how many answers may be open at once; one more is refused as overloaded. There are some
            more for a host that has none, while others hold all (see `labkit.service.admission`).
        isolation: `"thread"` runs the server in this process, `"process"` in one of its own, for which
            `engine` must be a text.

    Raises:
        StartError: the port is in use, the weights are missing, the engine has no such option.
        InvalidRequest: no such flush policy, or `max_streams` below 1.
    """
    create = interfaces.server(interface)
    name = interface if isinstance(interface, str) else create.__module__.rpartition(".")[2]
    options = ServerOptions(host, port, flush, max_streams)
    server: Server
    if isolation == "process":
        if not isinstance(engine, str):
            raise StartError("a subprocess makes its own engine: give it as text, such as 'tiny'")
        server = ProcessServer(name, create, engine, options)
    else:
        server = ThreadServer(name, create, engine, options)
    for other in [other for other in _started if port and (other.host, other.port) == (host, port)]:
        other.stop()
    server.start()
    _started.add(server)
    return server


def stop_all() -> None:
    """Stop every server and close every engine that this process has started."""
    for server in list(_started):
        server.stop()
    close_engines()
