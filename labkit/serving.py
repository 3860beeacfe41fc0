"""Launching: one call starts a server in a thread or a subprocess, the same handle stops it.

    server = labkit.serve("sse", engine)          # a notebook cell; run it again as often as you like
    with labkit.serve("sse", "scripted") as server: ...

Stopping is streams first: every open stream gets its terminal event, then the sockets close.
"""

import asyncio
import contextlib
import gc
import json
import os
import subprocess
import sys
import threading
import weakref
from abc import ABC, abstractmethod
from types import ModuleType, TracebackType
from typing import Any, Literal, Self

from labkit import interfaces
from labkit.background import LoopThread
from labkit.client import Recording
from labkit.engine import Engine, create_engine
from labkit.errors import StartError
from labkit.events import GenerateRequest
from labkit.flush import FlushPolicy, parse_policy
from labkit.interfaces import Create, Listener
from labkit.service import Service

FAREWELL_S = 0.1
START_S = 60.0

_by_port: weakref.WeakValueDictionary[int, "Server"] = weakref.WeakValueDictionary()


def serve(
    interface: str | ModuleType | Create,
    engine: Engine | str = "tiny",
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    flush: str = "token",
    isolation: Literal["thread", "process"] = "thread",
) -> "Server":
    """Start a server and return when it answers.

    Args:
        interface: a name (`"sse"`), a server module (`servers.sse`) or its `create`.
        engine: an engine that several servers may share, or a text such as `"scripted:tokens=64"`, from
            which the server makes an engine of its own and closes it when it stops.
        port: 0 takes any free one. A server of this process that holds the port is replaced.
        flush: the flush policy at the start; `Server.tune` changes it while streams run.
        isolation: `"thread"`, in this process, or `"process"`, in one of its own (needs the text form).

    Raises:
        StartError: the port is in use, the weights are missing, an option is wrong.
    """
    create = interfaces.server(interface)
    name = interface if isinstance(interface, str) else create.__module__.rpartition(".")[2]
    parse_policy(flush)
    if port and (previous := _by_port.get(port)):
        previous.stop()
    server: Server
    if isolation == "process":
        if not isinstance(engine, str):
            raise StartError("a subprocess makes its own engine: give it as text, such as 'tiny'")
        server = ProcessServer(name, create, engine, host, port, flush)
    else:
        server = ThreadServer(name, create, engine, host, port, flush)
    server.start()
    _by_port[server.port] = server
    return server


class Server(ABC):
    """A running server. Stops by `stop()`, at the end of `with`, when it is forgotten, or at exit."""

    def __init__(self, name: str, host: str, port: int) -> None:
        self.name = name
        self.host = host
        self.port = port
        self.url = ""

    @abstractmethod
    def start(self) -> None:
        """Start, if it is not running. Raises `StartError`."""

    @abstractmethod
    def stop(self) -> None:
        """Stop within a second, open streams or not; safe to call twice, and from any thread."""

    @property
    @abstractmethod
    def running(self) -> bool: ...

    @abstractmethod
    def tune(self, *, flush: str | None = None, interval_ms: float | None = None) -> None:
        """Turn a knob while streams run: the flush policy, or the engine's pace.

        Raises:
            InvalidRequest: no such policy.
        """

    def ask(self, request: GenerateRequest) -> Recording:
        """Send one request with this interface's client, wait for the end, return what the client recorded.

        Works where a loop already runs, as in a notebook; an interrupt stops the stream.

        Raises:
            Refused, ConnectionLost: as `Client.chunks`.
        """
        thread = LoopThread("labkit-ask")
        try:
            return thread.run(self._record(request))
        finally:
            thread.close()

    async def _record(self, request: GenerateRequest) -> Recording:
        async with interfaces.client(self.name)(self.url) as client:
            return await client.record(request)

    def _opened(self, scheme: str, port: int) -> None:
        self.port = port
        self.url = f"{scheme}://{f'[{self.host}]' if ':' in self.host else self.host}:{port}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<{self.name} server, {'running' if self.running else 'stopped'}>"


class ThreadServer(Server):
    """A server on a loop of its own in a daemon thread of this process."""

    def __init__(
        self, name: str, create: Create, engine: Engine | str, host: str, port: int, flush: str
    ) -> None:
        super().__init__(name, host, port)
        self._create = create
        self._engine = engine
        self._flush = flush
        self._running: _Running | None = None
        self._finalizer: weakref.finalize[..., Any] | None = None

    @property
    def running(self) -> bool:
        return self._running is not None

    @property
    def service(self) -> Service:
        """The service that this server offers, for whoever wants to look at its streams.

        Raises:
            StartError: the server is not running.
        """
        if self._running is None:
            raise StartError(f"the {self.name} server is not running")
        return self._running.service

    def start(self) -> None:
        if self._running is not None:
            return
        running = _Running(self._engine, self._flush, self.name)
        try:
            port = running.thread.run(running.open(self._create, self.host, self.port), START_S)
        except BaseException:
            running.stop()
            raise
        self._running = running
        self._opened(running.scheme, port)
        _spare_the_collector()
        self._finalizer = weakref.finalize(self, running.stop)

    def stop(self) -> None:
        if self._running is None:
            return
        running, self._running = self._running, None
        if self._finalizer is not None:
            self._finalizer.detach()
        running.stop()

    def tune(self, *, flush: str | None = None, interval_ms: float | None = None) -> None:
        if flush is not None:
            self.service.flush = parse_policy(flush)
            self._flush = flush
        if interval_ms is not None:
            self.service.engine.interval_ms = interval_ms


def _spare_the_collector() -> None:
    """Take all objects that exist by now out of later garbage collections.

    A full collection walks every object: 0.1 to 0.3 s in a kernel with torch loaded, in which no thread
    moves and every stream stalls.
    """
    gc.collect()
    gc.freeze()


class _Running:
    """What a started `ThreadServer` holds, without a reference to it: a forgotten server is collected."""

    def __init__(self, engine: Engine | str, flush: str, name: str) -> None:
        policy: FlushPolicy = parse_policy(flush)
        self.owned = create_engine(engine) if isinstance(engine, str) else None
        self.service = Service(self.owned or engine, policy)  # type: ignore[arg-type]
        self.thread = LoopThread(f"labkit-{name}")
        self.scheme = ""
        self._listener: Listener | None = None

    async def open(self, create: Create, host: str, port: int) -> int:
        """Make the server on its own loop and start it; returns the port."""
        self._listener = create(self.service)
        self.scheme = self._listener.scheme
        return await self._listener.start(host, port)

    def stop(self) -> None:
        if threading.current_thread() is self.thread.thread:
            # Collected on its own loop: it cannot wait for itself.
            threading.Thread(target=self.stop, daemon=True).start()
            return
        with contextlib.suppress(TimeoutError, asyncio.CancelledError, RuntimeError):
            self.thread.run(self._farewell(), timeout=1.0)
        self.thread.close()
        if self.owned is not None:
            self.owned.close()

    async def _farewell(self) -> None:
        self.service.stop()
        deadline = asyncio.get_running_loop().time() + FAREWELL_S
        while self.service.open_streams and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.005)
        if self._listener is not None:
            await self._listener.stop()


class ProcessServer(Server):
    """A server in a subprocess, told what to do by lines of JSON; it ends when its stdin does.

    So it cannot outlive this process, whatever ends it, and an interrupt of this process does not reach it.
    """

    def __init__(self, name: str, create: Create, engine: str, host: str, port: int, flush: str) -> None:
        super().__init__(name, host, port)
        self._config = {
            "name": name,
            "server": interfaces.reference(create),
            "engine": engine,
            "host": host,
            "flush": flush,
        }
        self._process: subprocess.Popen[str] | None = None
        self._finalizer: weakref.finalize[..., Any] | None = None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def start(self) -> None:
        if self.running:
            return
        self._process = subprocess.Popen(
            [sys.executable, "-m", "labkit.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            start_new_session=True,
        )
        self._finalizer = weakref.finalize(self, _end, self._process)
        try:
            opened = self._tell({**self._config, "port": self.port})
        except BaseException:
            self.stop()
            raise
        self._opened(opened["scheme"], opened["port"])

    def stop(self) -> None:
        if self._finalizer is not None:
            self._finalizer()
        self._process = None

    def tune(self, *, flush: str | None = None, interval_ms: float | None = None) -> None:
        if not self.running:
            raise StartError(f"the {self.name} server is not running")
        if flush is not None:
            parse_policy(flush)
            self._config["flush"] = flush
        self._tell({"flush": flush, "interval_ms": interval_ms})

    def _tell(self, message: dict[str, Any]) -> dict[str, Any]:
        assert self._process is not None and self._process.stdin and self._process.stdout
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise StartError(f"the {self.name} server's process ended unexpectedly; its last words are above")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise StartError(answer["error"])
        return answer


def _end(process: "subprocess.Popen[str]") -> None:
    """Close its stdin, which tells it to stop; then insist."""
    with contextlib.suppress(BrokenPipeError):
        if process.stdin:
            process.stdin.close()
    for insist in (process.terminate, process.kill):
        try:
            process.wait(2.0)
            break
        except subprocess.TimeoutExpired:
            insist()
    process.wait()
    if process.stdout:
        process.stdout.close()
