"""A server in a process of its own (`labkit/launch/process_child.py` is what runs in it)."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from labkit import interfaces
from labkit.child import Child
from labkit.errors import StartError
from labkit.interfaces import Create
from labkit.launch.server import Server, ServerOptions
from labkit.service.flush import parse_policy

PROGRAM = Path(__file__).with_name("process_child.py")
START_S = 300.0  # a busy machine takes a minute for the imports
TUNE_S = 60.0


class ProcessServer(Server):
    """A server in a subprocess. It ends with this process, but an interrupt of this process passes it by."""

    def __init__(self, name: str, create: Create, engine: str, options: ServerOptions) -> None:
        super().__init__(name, options)
        if create.__module__ == "__main__" or "<locals>" in create.__qualname__:
            raise StartError("a subprocess imports its server: put it into a module of its own")
        self._order = {"name": name, "create": interfaces.reference(create), "engine": engine}
        self._child: Child | None = None

    @property
    def running(self) -> bool:
        return self._child is not None and self._child.running

    @property
    def pid(self) -> int | None:
        return self._child.pid if self._child else None

    def start(self) -> None:
        if self.running:
            return
        options = asdict(replace(self.options, port=self.port))
        self._child = child = Child(f"the {self.name} server", PROGRAM, {**self._order, "options": options})
        address = child.ready(START_S)
        self._opened(address["scheme"], address["port"])

    def stop(self) -> None:
        if self._child is not None:
            self._child.close()
        self._child = None

    def tune(self, *, flush: str | None = None, **knobs: Any) -> None:
        child = self._child
        if child is None or not child.running:
            raise StartError(f"the {self.name} server is not running")
        if flush is not None:
            parse_policy(flush)
            self.options = replace(self.options, flush=flush)
        child.call({"flush": flush, **knobs}, TUNE_S)
