"""A server in this process: a daemon thread with an event loop of its own."""

import asyncio
import contextlib
import gc
import threading
import weakref
from dataclasses import replace
from functools import cache
from typing import Any

from labkit.background import LoopThread
from labkit.engine import Engine, create_engine
from labkit.errors import StartError
from labkit.interfaces import Create, Listener
from labkit.launch.server import Server, ServerOptions
from labkit.service.flush import parse_policy
from labkit.service.service import Service

FAREWELL_S = 0.1
START_S = 300.0
STOP_S = 1.0


class ThreadServer(Server):
    """A server on a loop of its own in a daemon thread of this process."""

    def __init__(self, name: str, create: Create, engine: Engine | str, options: ServerOptions) -> None:
        super().__init__(name, options)
        self._create = create
        self._engine = engine
        self._running: _Running | None = None
        self._finalizer: weakref.finalize[..., Any] | None = None

    @property
    def running(self) -> bool:
        return self._running is not None

    @property
    def service(self) -> Service:
        """The service behind this server; it knows the open streams.

        Raises:
            StartError: the server is not running.
        """
        if self._running is None:
            raise StartError(f"the {self.name} server is not running")
        return self._running.service

    def start(self) -> None:
        if self._running is not None:
            return
        running = _Running(self._engine, self.options, self.name)
        try:
            port = running.thread.run(running.open(self._create, self.host, self.port), START_S)
        except TimeoutError:
            running.stop()
            raise StartError(f"the {self.name} server did not start within {START_S:g} s") from None
        except BaseException:
            running.stop()
            raise
        self._running = running
        self._opened(running.scheme, port)
        self._finalizer = weakref.finalize(self, running.stop)

    def stop(self) -> None:
        if self._running is None:
            return
        running, self._running = self._running, None
        running.stop()
        if self._finalizer is not None:
            self._finalizer.detach()

    def tune(self, *, flush: str | None = None, **knobs: Any) -> None:
        service = self.service
        policy = None if flush is None else parse_policy(flush)
        if knobs:
            service.engine.tune(**knobs)
        if policy is not None:
            service.flush = policy
            self.options = replace(self.options, flush=str(policy))


@cache
def spare_the_collector() -> None:
    """Exclude all objects that exist now from later garbage collections, once in a process.

    A full collection walks every object. With torch loaded this takes 0.1 to 0.3 s, in which no thread runs
    and every stream stalls. A second call would also exclude a user's garbage, which would stay for ever.
    """
    gc.collect()
    gc.freeze()


class _Running:
    """The parts of a started `ThreadServer`. They have no reference to it, so that it can be collected."""

    def __init__(self, engine: Engine | str, options: ServerOptions, name: str) -> None:
        self.owned = create_engine(engine) if isinstance(engine, str) else None
        spare_the_collector()  # after torch's objects, and before this server's, which must be collected
        policy = parse_policy(options.flush)
        self.service = Service(self.owned or engine, policy, options.max_streams)  # type: ignore[arg-type]
        self.thread = LoopThread(f"labkit-{name}")
        self.scheme = ""
        self._listener: Listener | None = None

    async def open(self, create: Create, host: str, port: int) -> int:
        """Make the listener on its loop, start it and return the port."""
        self._listener = create(self.service)
        self.scheme = self._listener.scheme
        return await self._listener.start(host, port)

    def stop(self) -> None:
        if threading.current_thread() is self.thread.thread:
            # The server was collected on its own loop, whose thread cannot wait for itself.
            threading.Thread(target=self.stop, daemon=True).start()
            return
        try:
            with contextlib.suppress(TimeoutError, asyncio.CancelledError, RuntimeError):
                self.thread.run(self._farewell(), STOP_S)
        finally:  # an interrupt of the wait must not skip this
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
