"""What the subprocess of an `IsolatedEngine` runs: its engine, and a port on loopback for requests."""

import asyncio
import gc
import json
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from labkit.background import LoopThread
from labkit.engine import create_engine
from labkit.engine.base import Checkable, Engine
from labkit.engine.isolated import BROKEN, HOST
from labkit.errors import LabkitError, in_one_line
from labkit.events import Event, Failed, GenerateRequest
from labkit.wire import native

MAX_REQUEST = 256 * 1024
SEND_BUFFER = 16 * 1024  # the kernel's default holds thousands of tokens of a reader that stalls


@contextmanager
def work(engine: str) -> Iterator[tuple[dict[str, Any], Callable[..., None]]]:
    """Make the engine and listen. Yields its name and the port, and what turns its knobs or checks it."""
    inner = create_engine(engine)
    thread = LoopThread("labkit-isolated")
    try:
        gc.collect()
        gc.freeze()  # a full collection would walk the model's objects, and every stream would wait

        def obey(knobs: dict[str, Any] | None) -> None:
            if knobs is not None:
                inner.tune(**knobs)
            elif isinstance(inner, Checkable):
                thread.run(inner.check())

        yield {"name": inner.name, "port": thread.run(_listen(inner))}, obey
    finally:
        inner.close()
        thread.close()


async def _listen(engine: Engine) -> int:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await _answer(engine, reader, writer)
        except (OSError, asyncio.CancelledError):  # the parent has left, or this process is about to end
            pass
        except LabkitError as error:
            _write(writer, Failed(0, error.code, str(error)), engine)
        except Exception as error:
            _write(writer, Failed(0, "engine_failed", f"{engine.name}: {in_one_line(error)}"), engine)
        finally:
            writer.close()

    sock = socket.create_server((HOST, 0))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
    await asyncio.start_server(connected, sock=sock, limit=MAX_REQUEST, backlog=1024)
    return int(sock.getsockname()[1])


async def _answer(engine: Engine, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Submit the request of one connection; write each event as a line, as fast as the parent reads."""
    stream = engine.submit(GenerateRequest.parse(json.loads(await reader.readline())))
    writer.transport.set_write_buffer_limits(0)
    leaving = asyncio.ensure_future(reader.read(1))
    leaving.add_done_callback(lambda _: stream.close())
    try:
        async for event in stream:
            _write(writer, event, engine)
            await writer.drain()
    finally:
        leaving.cancel()
        stream.close()


def _write(writer: asyncio.StreamWriter, event: Event, engine: Engine) -> None:
    """Write an event as a line; before a failure, a line that says why the engine is broken, if it is."""
    if isinstance(event, Failed) and engine.failed is not None:
        writer.write(BROKEN + json.dumps(engine.failed).encode() + b"\n")
    writer.write(native.to_json(event) + b"\n")
