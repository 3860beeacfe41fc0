"""Reads a server's answers as bytes and drops them, so that a benchmark's client costs next to nothing."""

import asyncio
import re

from labkit.errors import ConnectionLost

READ = 64 * 1024
TAIL = 512
REFUSAL = re.compile(rb"HTTP/1.1 [345]")
HEADERS_END = b"\r\n\r\n"


async def drain(
    url: str,
    question: bytes,
    answers: int,
    *,
    end: re.Pattern[bytes],
    proof: bytes = b"",
    handshake: bytes = b"",
) -> None:
    """Send the same question `answers` times on one TCP connection, each after the previous answer.

    Args:
        end: matches in the last 512 bytes received once an answer is over.
        proof: bytes that a complete answer has among its last 512.
        handshake: an HTTP request sent first; the response's headers are read before the first question.

    Raises:
        ConnectionLost: the server closed the connection, refused, or an answer ended without its proof.
    """
    host, _, port = url.rstrip("/").partition("://")[2].rpartition(":")
    reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    try:
        if handshake:
            writer.write(handshake)
            await reader.readuntil(HEADERS_END)
        for _ in range(answers):
            writer.write(question)
            if proof not in await _tail(reader, end):
                raise ConnectionLost("an answer did not finish")
    finally:
        writer.close()


async def _tail(reader: asyncio.StreamReader, end: re.Pattern[bytes]) -> bytes:
    """Read until `end` matches; return the last bytes."""
    tail = b""
    while not end.search(tail):
        data = await reader.read(READ)
        if not data:
            raise ConnectionLost("the server closed the connection in the middle of an answer")
        if REFUSAL.match(data):
            raise ConnectionLost(f"the server refused: {data[:12].decode()}")
        tail = (tail + data)[-TAIL:]
    return tail
