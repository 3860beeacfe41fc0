"""An engine in a process of its own, and both ends of the wire to it.

The subprocess listens on loopback, and each request is a connection: one line of JSON asks, each line that
comes back is an event. So the sockets carry the backpressure, and to close the connection is to cancel.
"""

import asyncio
import gc
import json
import os
import socket
import subprocess
import sys
import threading
import weakref
from contextlib import suppress
from typing import Any, NoReturn

from labkit.background import LoopThread
from labkit.engine import create_engine
from labkit.engine.base import Engine
from labkit.engine.tasked import TaskEngine, TaskStream
from labkit.errors import EngineFailed, LabkitError, StartError, from_code
from labkit.events import Event, Failed, Finished, GenerateRequest, Started, Token
from labkit.stream import Stream
from labkit.wire import native

HOST = "127.0.0.1"
START_S = 300.0  # the weights of a large model take minutes from a slow disk
TUNE_S = 10.0
MAX_REQUEST = 256 * 1024
DONE = b"\n"  # the reply to an order that has no other
READ = 4096
SOCKET_BUFFER = 16 * 1024  # the kernel's default swallows thousands of tokens of a reader who has stalled


class IsolatedEngine(TaskEngine):
    """Runs another engine in a subprocess, which has an interpreter, and so a GIL, to itself.

    The subprocess ends when its stdin does, so it cannot outlive this process, whatever ends that. What it
    refuses (`InvalidRequest`) comes as the stream's `Failed`. Stamps: `sampled` is the subprocess's own, on
    the host's one monotonic clock, and `queued` is when the token was here.

    Args:
        engine: the text form of the engine to run, such as `tiny:interval_ms=5`.

    Raises:
        StartError: that engine cannot be made, or not within `START_S` seconds.
    """

    def __init__(self, engine: str) -> None:
        self._process = _spawn(engine)
        self._end = weakref.finalize(self, _end, self._process)
        try:
            told = _first_words(self._process, engine)
        except BaseException:
            self._end()
            raise
        super().__init__(f"process:{told['name']}")
        self._port: int = told["port"]
        self._lost = False

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def failed(self) -> str | None:
        self._lost = self._lost or self._process.poll() is not None
        return super().failed or (self._silent() if self._lost else None)

    def tune(self, **knobs: Any) -> None:
        """As `Engine.tune`; the knobs are those of the engine in the subprocess.

        Raises:
            InvalidRequest: no such knob, or out of range; nothing was changed.
            EngineFailed: the subprocess has ended, or did not answer within `TUNE_S` seconds.
        """
        try:
            with socket.create_connection((HOST, self._port), TUNE_S) as sock, sock.makefile("rwb") as file:
                file.write(_order(tune=knobs))
                file.flush()
                reply = file.readline()
        except (ConnectionError, TimeoutError):
            reply = b""
        if not reply:
            raise EngineFailed(self._silent())
        if reply != DONE:
            _raise(native.event_from_json(reply))

    def close(self) -> None:
        super().close()
        self._end()

    async def answer(self, request: GenerateRequest, stream: TaskStream) -> None:
        with suppress(ConnectionError):
            reader, writer = await _connect(self._port)
            try:
                writer.write(_order(generate=native.request_to_dict(request)))
                rest = b""
                while data := await reader.read(READ):
                    *lines, rest = (rest + data).split(b"\n")
                    for line in lines:
                        await _pass_on(native.event_from_json(line), stream)
            finally:
                writer.close()
        if stream.wanted:  # the connection has ended before the stream
            self._lost = True
            raise EngineFailed(self._silent())

    def _silent(self) -> str:
        return f"{self.name}: its process has ended or hangs; make the engine again"


async def _pass_on(event: Event, stream: TaskStream) -> None:
    """One event of the subprocess's stream into ours, which gives it the same id."""
    match event:
        case Token():
            await stream.ready()
            stream.token(event.text, event.stamps.sampled if event.stamps else 0)
        case Started():
            stream.started(event.model, event.prompt_tokens)
        case Finished(reason="stop" | "length" as reason):
            stream.finish(reason)
        case _:
            _raise(event)


def _raise(event: Event) -> NoReturn:
    assert isinstance(event, Failed)
    raise from_code(event.code, event.message)


def _order(**order: Any) -> bytes:
    """As ASCII, and so without a line break."""
    return json.dumps(order).encode() + b"\n"


async def _connect(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    sock = socket.socket()
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BUFFER)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, (HOST, port))
        return await asyncio.open_connection(sock=sock, limit=READ)
    except BaseException:
        sock.close()
        raise


def _spawn(engine: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "labkit.engine.isolated", engine],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        start_new_session=True,  # an interrupt of this process does not reach it
    )


def _first_words(process: "subprocess.Popen[str]", engine: str) -> dict[str, Any]:
    """The port that the subprocess listens on, and the name of its engine.

    Raises:
        StartError: it says why not, or has ended, or takes longer than `START_S` seconds.
    """
    assert process.stdout is not None
    patience = threading.Timer(START_S, process.kill)
    patience.start()
    try:
        line = process.stdout.readline()
    finally:
        patience.cancel()
        process.stdout.close()
    if not line:
        raise StartError(f"the process of engine {engine!r} ended as it began; its last words are above")
    told: dict[str, Any] = json.loads(line)
    if "error" in told:
        raise StartError(told["error"])
    return told


def _end(process: "subprocess.Popen[str]") -> None:
    """Close its stdin, which tells it to stop; then insist."""
    with suppress(BrokenPipeError):
        if process.stdin:
            process.stdin.close()
    for insist in (process.terminate, process.kill):
        try:
            process.wait(2.0)
            break
        except subprocess.TimeoutExpired:
            insist()
    process.wait()


# From here on, what runs in the subprocess.


def main() -> None:
    """Make the engine that the command line names, say where it is, and serve it until stdin closes."""
    said = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what an engine prints goes to stderr: stdout has one line, and it is for the parent
    with said:
        try:
            engine = create_engine(sys.argv[1])
        except LabkitError as error:
            said.write(json.dumps({"error": str(error)}))
            return
        gc.collect()
        gc.freeze()  # a later full collection would walk the model's objects, and every stream would wait
        thread = LoopThread("labkit-isolated")
        said.write(json.dumps({"name": engine.name, "port": thread.run(_listen(engine))}))
    sys.stdin.read()
    engine.close()
    thread.close()


async def _listen(engine: Engine) -> int:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await _serve(engine, reader, writer)
        except (OSError, asyncio.CancelledError):  # the parent has left, or this process is about to end
            pass
        except LabkitError as error:
            writer.write(native.to_json(Failed(0, error.code, str(error))) + b"\n")
        except Exception as error:
            message = f"{engine.name}: {type(error).__name__}: {error}"
            writer.write(native.to_json(Failed(0, "engine_failed", message)) + b"\n")
        finally:
            writer.close()

    sock = socket.create_server((HOST, 0))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER)
    await asyncio.start_server(connected, sock=sock, limit=MAX_REQUEST, backlog=1024)
    return int(sock.getsockname()[1])


async def _serve(engine: Engine, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Obey the order of one connection."""
    order = json.loads(await reader.readline())
    if "tune" in order:
        engine.tune(**order["tune"])
        writer.write(DONE)
    else:
        await _send(engine.submit(GenerateRequest.parse(order["generate"])), reader, writer)


async def _send(stream: Stream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Write each event as a line, as fast as the parent reads; close the stream when it leaves."""
    writer.transport.set_write_buffer_limits(0)
    leaving = asyncio.ensure_future(reader.read(1))
    leaving.add_done_callback(lambda _: stream.close())
    try:
        async for event in stream:
            writer.write(native.to_json(event) + b"\n")
            await writer.drain()
    finally:
        leaving.cancel()
        stream.close()


if __name__ == "__main__":
    main()
