"""A server in a process of its own, told what to do over a pipe (`labkit.launch.child` is the other end)."""

import contextlib
import json
import os
import subprocess
import sys
import threading
import weakref
from dataclasses import asdict, replace
from typing import Any

from labkit import interfaces
from labkit.errors import StartError, from_code
from labkit.interfaces import Create
from labkit.launch.server import Options, Server
from labkit.service.flush import parse_policy

START_S = 60.0


class ProcessServer(Server):
    """A server in a subprocess, told what to do by lines of JSON; it ends when its stdin does.

    So it cannot outlive this process, whatever ends it, and an interrupt of this process does not reach it.
    """

    def __init__(self, name: str, create: Create, engine: str, options: Options) -> None:
        super().__init__(name, options)
        self._config = {
            "name": name,
            "server": interfaces.reference(create),
            "engine": engine,
        }
        if create.__module__ == "__main__" or "<locals>" in create.__qualname__:
            raise StartError("a subprocess imports its server: put it into a module of its own")
        self._process: subprocess.Popen[str] | None = None
        self._telling = threading.Lock()
        self._told = 0
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
            [sys.executable, "-m", "labkit.launch.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            start_new_session=True,
        )
        self._finalizer = weakref.finalize(self, _end, self._process)
        patience = threading.Timer(START_S, self._process.kill)
        patience.start()
        try:
            opened = self._tell({**self._config, "options": {**asdict(self.options), "port": self.port}})
        except BaseException:
            self.stop()
            raise
        finally:
            patience.cancel()
        self._opened(opened["scheme"], opened["port"])

    def stop(self) -> None:
        if self._finalizer is not None:
            self._finalizer()
        self._process = None

    def tune(self, *, flush: str | None = None, **knobs: Any) -> None:
        if not self.running:
            raise StartError(f"the {self.name} server is not running")
        if flush is not None:
            parse_policy(flush)
            self.options = replace(self.options, flush=flush)
        self._tell({"flush": flush, **knobs})

    def _tell(self, message: dict[str, Any]) -> dict[str, Any]:
        """Send a message and wait for its reply, passing over those whose wait was interrupted."""
        process = self._process
        assert process is not None and process.stdin and process.stdout
        with self._telling:
            self._told += 1
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(json.dumps({"number": self._told, "message": message}) + "\n")
                process.stdin.flush()
            for line in process.stdout:
                reply: dict[str, Any] = json.loads(line)
                if reply["number"] == self._told:
                    break
            else:
                raise StartError(f"the {self.name} server's process has ended; its last words are above")
        if "error" in reply:
            raise from_code(reply["code"], reply["error"])
        return reply


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
