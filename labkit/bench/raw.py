"""The yardstick `raw`: an asyncio server that writes encoded tokens and does nothing else, and its client."""

import asyncio
import re
import time
from collections.abc import AsyncGenerator, Sequence

from labkit import interfaces
from labkit.client import Chunk, Client
from labkit.engine.scripted import SCRIPT
from labkit.events import GenerateRequest, Started, Token
from labkit.interfaces import Create
from labkit.net.drain import drain
from labkit.service.service import Service
from labkit.web.listener import listen
from labkit.wire import eventstream, native

RAW = "raw"
END = b"\n\n--end--\n\n"
END_OF_ANSWER = re.compile(re.escape(END) + rb"$")


def create(service: Service) -> "RawListener":
    return RawListener(service)


class RawListener:
    """Reads a number from a line and writes that many tokens, one write each, encoded beforehand."""

    scheme = "tcp"

    def __init__(self, service: Service) -> None:
        encoded = (native.to_json(Token(index, SCRIPT[index % len(SCRIPT)])) for index in range(256))
        self._tokens = [eventstream.encode(data, b"token", i) for i, data in enumerate(encoded)]
        self._server: asyncio.Server | None = None

    async def start(self, host: str, port: int) -> int:
        sock = listen(host, port)
        self._server = await asyncio.start_server(self._serve, sock=sock)
        return int(sock.getsockname()[1])

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            for index in range(int(line)):
                writer.write(self._tokens[index % 256])
                await writer.drain()
                await asyncio.sleep(0)  # uvloop joins the writes of one turn of its loop
            writer.write(END)
        writer.close()


class RawClient(Client):
    """Drains the server, or holds a connection open."""

    name = RAW

    async def chunks(self, request: GenerateRequest) -> AsyncGenerator[Chunk, None]:
        """Connect, ask for nothing, and wait for ever: the lightest stream that a server can hold."""
        host, _, port = self.url.partition("://")[2].rpartition(":")
        _, writer = await asyncio.open_connection(host, int(port))
        try:
            yield Chunk(time.monotonic_ns(), [Started(0, "", self.name, 0)])
            await asyncio.Event().wait()
        finally:
            writer.close()

    @classmethod
    async def drain(cls, url: str, request: GenerateRequest, answers: int) -> None:
        await drain(url, b"%d\n" % request.max_tokens, answers, end=END_OF_ANSWER)


def with_raw(names: Sequence[str] | None) -> list[str]:
    """`raw`, then these interfaces; all of them for None."""
    return [RAW, *(interfaces.names() if names is None else names)]


def server(name: str) -> Create:
    """The server of an interface, or of `raw`."""
    return create if name == RAW else interfaces.server(name)


def client(name: str) -> type[Client]:
    """The client of an interface, or of `raw`."""
    return RawClient if name == RAW else interfaces.client(name)
