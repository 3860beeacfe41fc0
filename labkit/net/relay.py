"""A TCP relay that counts the bytes of a conversation with any server."""

import asyncio
from contextlib import suppress
from typing import Self

READ = 64 * 1024


class CountingRelay:
    """Forwards every connection to `url` and counts TCP's payload both ways.

    `up` counts the clients' bytes, `down` the server's. Both include handshakes and framing, but not the
    TCP and IP headers.

        async with CountingRelay(server.url) as relay, SSEClient(relay.url) as client:
            await client.record(request)
        relay.up, relay.down
    """

    def __init__(self, url: str) -> None:
        self._scheme, _, target = url.partition("://")
        host, _, port = target.rpartition(":")
        self._target = host.strip("[]"), int(port)
        self.up = 0
        self.down = 0
        self._server: asyncio.Server | None = None
        self._pipes: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"{self._scheme}://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for pipe in self._pipes:
            pipe.cancel()
        await asyncio.gather(*self._pipes, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            server_reader, server_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.close()
            return
        for source, sink, up in ((reader, server_writer, True), (server_reader, writer, False)):
            pipe = asyncio.get_running_loop().create_task(self._pipe(source, sink, up))
            self._pipes.add(pipe)
            pipe.add_done_callback(self._pipes.discard)

    async def _pipe(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, up: bool) -> None:
        try:
            with suppress(ConnectionError):
                while data := await source.read(READ):
                    if up:
                        self.up += len(data)
                    else:
                        self.down += len(data)
                    sink.write(data)
                    await sink.drain()
        finally:
            sink.close()
