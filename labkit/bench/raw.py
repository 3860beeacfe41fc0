"""The yardstick for transport cost: an asyncio server that writes encoded tokens and does nothing else."""

import asyncio

from labkit.engine.scripted import SCRIPT
from labkit.events import Token
from labkit.service.service import Service
from labkit.web.listener import listen
from labkit.wire import eventstream, native

END = b"\n\n--end--\n\n"


def create(service: Service) -> "RawListener":
    return RawListener(service)


class RawListener:
    """Reads one line that holds a number and writes as many tokens, one write each, encoded beforehand."""

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
                await asyncio.sleep(0)  # a turn of the loop, or uvloop would join the writes
            writer.write(END)
        writer.close()
