"""An engine in a process of its own (`labkit/engine/isolated_child.py` is what runs in it).

A request is a connection to a port of the subprocess on loopback. One line of JSON is the request, each line
that comes back is an event, or says after `BROKEN` why the engine there answers no more. So the sockets carry
the backpressure, and to close one is to cancel.
"""

import asyncio
import json
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

from labkit.child import Child
from labkit.engine.tasked import TaskEngine, TaskStream
from labkit.errors import EngineFailed, LabkitError, StartError, from_code
from labkit.events import Event, Failed, Finished, GenerateRequest, Started, Token
from labkit.wire import native

PROGRAM = Path(__file__).with_name("isolated_child.py")
HOST = "127.0.0.1"
BROKEN = b"broken "
START_S = 300.0  # the weights of a large model take minutes from a slow disk
TUNE_S = 60.0
READ = 4096
RECEIVE_BUFFER = 16 * 1024  # the kernel's default holds thousands of tokens of a reader that stalls


class IsolatedEngine(TaskEngine):
    """Runs another engine in a subprocess, which has an interpreter, and so a GIL, to itself.

    The subprocess ends with this process. A request that it refuses (`InvalidRequest`) ends in the stream's
    `Failed`. The stamp `sampled` comes from the subprocess, which shares this host's monotonic clock;
    `queued` is the time when the token arrived here.

    Args:
        engine: the text form of the engine to run, such as `tiny:interval_ms=5`.

    Raises:
        StartError: that engine cannot be made, or not within `START_S` seconds.
    """

    def __init__(self, engine: str) -> None:
        self._child = Child(f"engine {engine!r}", PROGRAM, {"engine": engine}, failure=EngineFailed)
        try:
            address = self._child.ready(START_S)
        except LabkitError as error:
            raise StartError(str(error)) from None
        super().__init__(f"process:{address['name']}")
        self._port: int = address["port"]
        self._lost = False
        self._broken: str | None = None

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def failed(self) -> str | None:
        self._lost = self._lost or not self._child.running
        return super().failed or self._broken or (self._loss() if self._lost else None)

    def tune(self, **knobs: Any) -> None:
        """As `Engine.tune`; the knobs are those of the engine in the subprocess.

        Raises:
            InvalidRequest: no such knob, or a value is out of range; nothing was changed.
            EngineFailed: the subprocess has ended, or did not answer within `TUNE_S` seconds.
        """
        if self.failed is not None:
            raise EngineFailed(self.failed)
        self._child.call({"knobs": knobs}, TUNE_S)

    async def check(self) -> None:
        """As `Checkable.check`, for the engine in the subprocess."""
        await asyncio.to_thread(self._child.call, {"knobs": None}, TUNE_S)

    def close(self) -> None:
        super().close()
        self._child.close()

    async def answer(self, request: GenerateRequest, stream: TaskStream) -> None:
        with suppress(ConnectionError):
            reader, writer = await _connect(self._port)
            try:
                writer.write(json.dumps(native.request_to_dict(request)).encode() + b"\n")
                rest = b""
                while data := await reader.read(READ):
                    *lines, rest = (rest + data).split(b"\n")
                    for line in lines:
                        if line.startswith(BROKEN):
                            self._broken = str(json.loads(line[len(BROKEN) :]))
                        else:
                            await _pass_on(native.event_from_json(line), stream)
            finally:
                writer.close()
        if stream.wanted:  # the connection has ended before the stream
            self._lost = True
            raise EngineFailed(self._loss())

    def _loss(self) -> str:
        return f"{self.name}: its process has ended or hangs; make the engine again"


async def _pass_on(event: Event, stream: TaskStream) -> None:
    """Put one event of the subprocess's stream into ours, which gives it the same id."""
    match event:
        case Token():
            await stream.ready()
            stream.token(event.text, event.stamps.sampled if event.stamps else 0)
        case Started():
            stream.started(event.model, event.prompt_tokens)
        case Finished(reason="stop" | "length" as reason, tokens=tokens):
            stream.tokens = tokens
            stream.finish(reason)
        case Failed():
            raise from_code(event.code, event.message)


async def _connect(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    sock = socket.socket()
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, (HOST, port))
        return await asyncio.open_connection(sock=sock, limit=READ)
    except BaseException:
        sock.close()
        raise
