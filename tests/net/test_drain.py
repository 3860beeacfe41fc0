"""Draining: complete answers, one after another on one connection, and an error if one is incomplete."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from support import PATIENCE_S

from labkit.errors import ConnectionLost
from labkit.net.drain import READ, drain

END = re.compile(rb"end\n$")


@asynccontextmanager
async def answering(*answers: bytes) -> AsyncIterator[tuple[str, list[bytes]]]:
    """A server that sends these answers, one for each line; yields its URL and the lines it reads."""
    lines: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            lines.append(await reader.readline())
            writer.write(answer)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}", lines


async def test_each_question_waits_for_the_end_of_the_answer_before() -> None:
    long = b"x" * (3 * READ) + b"finished end\n"
    async with answering(long, b"a finished end\n") as (url, lines):
        await asyncio.wait_for(drain(url, b"ask\n", 2, end=END, proof=b"finished"), PATIENCE_S)
    assert lines == [b"ask\n", b"ask\n"]


async def test_the_handshake_goes_first_and_its_answer_is_not_the_first_answer() -> None:
    async with answering(b"HTTP/1.1 101 end\n\r\n\r\n", b"end\n") as (url, lines):
        await asyncio.wait_for(drain(url, b"ask\n", 1, end=END, handshake=b"hello\n"), PATIENCE_S)
    assert lines == [b"hello\n", b"ask\n"]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"failed end\n", "an answer did not finish"),
        (b"HTTP/1.1 503 no\r\n", "the server refused: HTTP/1.1 503"),
        (b"half an answer", "in the middle of an answer"),
    ],
)
async def test_an_answer_that_is_not_complete_is_an_error(answer: bytes, words: str) -> None:
    async with answering(answer) as (url, _):
        with pytest.raises(ConnectionLost, match=words):
            await asyncio.wait_for(drain(url, b"ask\n", 1, end=END, proof=b"finished"), PATIENCE_S)
