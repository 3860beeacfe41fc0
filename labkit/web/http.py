"""What the HTTP clients share: pooled connections, and labkit's errors out of responses."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from urllib.request import getproxies

import httpx

from labkit.client import END_S, Client
from labkit.errors import ConnectionLost, LabkitError, from_code
from labkit.net.http_client import HTTPClient, redirection

MAX_ANSWER = 64 * 2**20
CODES = {413: "too_large", 431: "too_large", 503: "overloaded", 500: "engine_failed"}


def pooled(url: str) -> HTTPClient:
    """Make a client that sends JSON and keeps its connections; it waits 10 s to connect, for ever to read.

    It uses no proxy, whatever the environment names.
    """
    return HTTPClient(
        base_url=url,
        headers={"content-type": "application/json", "accept-encoding": "identity"},
        timeout=httpx.Timeout(10.0, read=None),
        limits=httpx.Limits(max_connections=None),
        trust_env=False,
        verify=url.startswith("https:"),  # loading certificates stops the loop for 80 ms
    )


def curl() -> str:
    """How a person calls curl for a server on this machine: past the proxy that the environment names."""
    return "curl --noproxy '*'" if getproxies() else "curl"


def check_plain(name: str, response: httpx.Response) -> None:
    """Raise ConnectionLost if something has compressed the body, which holds tokens back."""
    encoding = response.headers.get("content-encoding") or "identity"
    if encoding.lower() != "identity":
        raise ConnectionLost(
            f"{name}: the response is {encoding}-encoded, though none was asked for: "
            "turn compression off in what stands between"
        )


async def whole(name: str, response: httpx.Response) -> tuple[int, bytes]:
    """Read a body to its end; return the time of the last read with data in ns, and the body.

    Raises:
        ConnectionLost: it is compressed, or over `MAX_ANSWER` bytes.
    """
    check_plain(name, response)
    received, body = 0, bytearray()
    async for data in response.aiter_raw():
        # the time of the last read with data, without what httpx does after it
        received = time.monotonic_ns()
        body += data
        if len(body) > MAX_ANSWER:
            raise ConnectionLost(f"{name}: the answer is over {MAX_ANSWER} bytes, which is the limit")
    return received, bytes(body)


async def read_out(rest: AsyncIterator[bytes]) -> None:
    """Read what is left of a body after the last event, since only a whole response frees its connection."""
    with suppress(TimeoutError, httpx.TransportError):
        async with asyncio.timeout(END_S):
            async for _ in rest:
                pass


def refusal(response: httpx.Response, body: bytes) -> LabkitError:
    """The error that a response other than an answer carries."""
    try:
        error = json.loads(body)["error"]
        return from_code(error["code"], error["message"])
    except (ValueError, KeyError, TypeError):
        status = response.status_code
        text = redirection(response) or body[:200].decode("utf-8", "replace")
        return from_code(CODES.get(status, "invalid_request"), f"HTTP {status}: {text}")


def lost(client: Client, error: httpx.TransportError) -> ConnectionLost:
    """The error of a client that got no connection, or lost it."""
    reason = str(error) or type(error).__name__
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return client.unreachable(reason)
    return ConnectionLost(f"{client.name}: {reason}")
