"""The counting relay counts each byte once and changes none of them."""

import asyncio

import pytest
from support import PATIENCE_S, Watched, ask, assert_whole, connect, free_port, thread_server, until

from labkit.net import relay
from labkit.net.relay import CountingRelay


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A server that answers a line `n` with n bytes."""
    while line := await reader.readline():
        writer.write(b"x" * int(line))
        await writer.drain()
    writer.close()


async def call(port: int, *sizes: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for size in sizes:
        writer.write(b"%d\n" % size)
        assert await reader.readexactly(size) == b"x" * size
    writer.close()
    await writer.wait_closed()


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2])


async def test_the_count_is_exact_to_the_byte() -> None:
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    url = f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, CountingRelay(url) as counting:
        assert counting.url.startswith("tcp://127.0.0.1:") and counting.url != url
        await call(port_of(counting.url), 10, 0, 1_000)
        assert (counting.up, counting.down) == (len(b"10\n0\n1000\n"), 1_010)
        await asyncio.gather(*(call(port_of(counting.url), 300_000) for _ in range(4)))
        assert (counting.up, counting.down) == (10 + 4 * 7, 1_010 + 1_200_000)


async def test_the_relay_changes_nothing_of_any_interface(interface: str) -> None:
    with thread_server(interface, Watched(interval_ms=0)) as server:
        async with CountingRelay(server.url) as counting:
            async with connect(interface, counting.url) as client:
                assert_whole(await client.record(ask(20)), 20)
                first = counting.up, counting.down
                assert first[0] > len("one two three") and first[1] > 20 * len("the ")
                assert_whole(await client.record(ask(200)), 200)
            assert counting.down - first[1] > 200 * len("the ")


async def test_the_server_notices_a_client_that_leaves(interface: str) -> None:
    engine = Watched(tokens=60_000, interval_ms=2)
    with thread_server(interface, engine) as server:
        async with CountingRelay(server.url) as counting:
            async with connect(interface, counting.url) as client:
                task = asyncio.create_task(client.record(ask(60_000)))
                await until(lambda: engine.streams and engine.streams[0].produced > 2, "tokens come")
                task.cancel()
                await asyncio.wait([task])
            await until(lambda: server.service.open_streams == 0, "the stream is forgotten")


async def test_leaving_the_relay_ends_its_connections() -> None:
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        async with CountingRelay(f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}") as counting:
            port = port_of(counting.url)
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"3\n")
            assert await reader.readexactly(3) == b"xxx"
        assert await asyncio.wait_for(reader.read(), PATIENCE_S) == b""
        writer.close()
        with pytest.raises(OSError, match=r"[Cc]onnect"):
            await asyncio.open_connection("127.0.0.1", port)


async def test_without_a_server_the_relay_closes_the_client_s_connection() -> None:
    async with CountingRelay(f"tcp://127.0.0.1:{free_port()}") as counting:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(counting.url))
        assert await asyncio.wait_for(reader.read(), PATIENCE_S) == b""
        writer.close()


async def test_the_relay_does_not_read_ahead_of_a_slow_reader() -> None:
    """It holds a bounded number of bytes, so that it does not hide backpressure."""
    size = 60_000_000
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    url = f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, CountingRelay(url) as counting:
        _, writer = await asyncio.open_connection("127.0.0.1", port_of(counting.url), limit=relay.READ)
        writer.write(b"%d\n" % size)
        await until(lambda: counting.down > 0, "bytes come")
        await asyncio.sleep(0.5)
        assert counting.down < size / 2
        writer.transport.abort()
