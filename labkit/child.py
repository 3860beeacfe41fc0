"""A child process that takes orders as lines of JSON, and ends when its stdin does."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

from labkit.errors import LabkitError, StartError, from_code

PROGRAM = Path(__file__).with_name("child_main.py")
END_S = 2.0


class Child:
    """A process that runs the context manager `work` of one file (see `labkit/child_main.py`).

    Its stdin is one end of a pair of sockets. `{"number": 3, "order": {"flush": "token"}}` is a line to
    it, `{"number": 3, "reply": null}` or `{"number": 3, "error": "…", "code": "invalid_request"}` the reply.
    It cannot outlive this process, and an interrupt of this process does not reach it. What it prints goes to
    stderr. Every method may be called from any thread.

    Args:
        name: what errors call it, such as `the sse server`.
        order: the first order, the arguments of `work`.
        failure: the error to raise if the child has ended, does not answer, or breaks.
        python: the interpreter. One that is not this process's need not have labkit.
        silent: collect its output; an error shows the last line if the child ends.

    Raises:
        StartError: the interpreter does not start.
    """

    def __init__(
        self,
        name: str,
        file: Path,
        order: dict[str, Any],
        *,
        failure: type[LabkitError] = StartError,
        python: str | None = None,
        environment: Mapping[str, str] | None = None,
        silent: bool = False,
    ) -> None:
        self.name = name
        self._failure = failure
        self._output = TemporaryFile() if silent else None  # noqa: SIM115 (closed with the process)
        self._wire, theirs = socket.socketpair()
        with theirs:
            self._process = _spawn(python or sys.executable, file, environment or {}, theirs, self._output)
        self._finalizer = weakref.finalize(self, _close, self._process, self._wire, self._output)
        self._calling = threading.Lock()
        self._number = 0
        self._unread = b""
        self._send(order)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def ready(self, patience_s: float) -> Any:
        """Wait for the reply to the first order and return it. Raises as `call`; then the child is closed."""
        try:
            with self._calling:
                return self._reply(patience_s)
        except BaseException:
            self.close()
            raise

    def call(self, order: dict[str, Any], patience_s: float) -> Any:
        """Send an order, wait for its reply and return it.

        An interrupt ends only the wait: the child obeys, and a later call passes over the reply.

        Raises:
            LabkitError: the child raised it, or it is of the kind `failure`.
        """
        with self._calling:
            self._number += 1
            self._send(order)
            return self._reply(patience_s)

    def close(self) -> None:
        """Close its stdin; terminate, then kill a child that does not end. May be called twice."""
        self._finalizer()

    def _send(self, order: dict[str, Any]) -> None:
        line = json.dumps({"number": self._number, "order": order}).encode() + b"\n"
        with suppress(OSError):  # the child has ended: the wait for its reply finds that out
            self._wire.settimeout(None)
            self._wire.sendall(line)

    def _reply(self, patience_s: float) -> Any:
        deadline_s = time.monotonic() + patience_s
        try:
            while (reply := json.loads(self._line(deadline_s)))["number"] != self._number:
                pass
        except TimeoutError:
            raise self._failure(f"{self.name} does not answer within {patience_s:g} s") from None
        except (OSError, EOFError):
            raise self._failure(self._ending()) from None
        if "error" not in reply:
            return reply["reply"]
        if "code" in reply:
            raise from_code(reply["code"], reply["error"])
        raise self._failure(f"{self.name}: {reply['error']}")

    def _line(self, deadline_s: float) -> bytes:
        while b"\n" not in self._unread:
            self._wire.settimeout(max(deadline_s - time.monotonic(), 1e-3))
            data = self._wire.recv(65536)
            if not data:
                raise EOFError
            self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        return line

    def _ending(self) -> str:
        if not self._finalizer.alive:
            return f"{self.name} is closed"
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(END_S)
        end, status = f"the process of {self.name} has ended", f"status {self._process.returncode}"
        if self._output is None:
            return f"{end} ({status}); its last output is above"
        self._output.seek(0)
        lines = self._output.read().decode(errors="replace").split("\n")
        return f"{end}: {next((line.strip() for line in reversed(lines) if line.strip()), status)}"


def _spawn(
    python: str, file: Path, environment: Mapping[str, str], stdin: socket.socket, output: IO[bytes] | None
) -> "subprocess.Popen[bytes]":
    path = {"PYTHONPATH": _search_path()} if python == sys.executable else {}
    stderr = output.fileno() if output else 2
    try:
        return subprocess.Popen(
            [python, "-P", str(PROGRAM), str(file)],  # -P: the folder of PROGRAM is not a place for modules
            stdin=stdin.fileno(),
            stdout=stderr,
            stderr=stderr,
            env={**os.environ, **path, **environment},
            start_new_session=True,
        )
    except OSError as error:
        raise StartError(f"{python} does not start: {error.strerror}") from None


def _search_path() -> str:
    """This process's `sys.path`, for the variable PYTHONPATH; Python itself looks only at the strings in it.

    The empty string, which is the current folder, comes last. A notebook's kernel has loaded Python's own
    `html` before it could find an `html.py` there, and its children must not find that one either.
    """
    entries = [entry for entry in sys.path if isinstance(entry, str)]
    return os.pathsep.join([entry for entry in entries if entry] + [os.curdir] * ("" in entries))


def _close(process: "subprocess.Popen[bytes]", wire: socket.socket, output: IO[bytes] | None) -> None:
    with suppress(OSError):  # this ends the child's stdin, and another thread's wait for a reply
        wire.shutdown(socket.SHUT_RDWR)
    for insist in (process.terminate, process.kill):
        try:
            process.wait(END_S)
            break
        except subprocess.TimeoutExpired:
            insist()
    process.wait()
    wire.close()
    if output:
        output.close()
