"""What the HTTP clients share: pooled connections, and labkit's errors out of responses."""

import json
from urllib.request import getproxies

import httpx

from labkit.client import Client
from labkit.errors import ConnectionLost, LabkitError, from_code
from labkit.net.http_client import HTTPClient, redirection

CODES = {413: "too_large", 431: "too_large", 503: "overloaded", 500: "engine_failed"}


def pooled(url: str) -> HTTPClient:
    """Make a client that sends JSON and keeps its connections; it waits 10 s to connect, for ever to read.

    It uses no proxy, whatever the environment names.
    """
    return HTTPClient(
        base_url=url,
        headers={"content-type": "application/json"},
        timeout=httpx.Timeout(10.0, read=None),
        limits=httpx.Limits(max_connections=None),
        trust_env=False,
        verify=url.startswith("https:"),  # loading certificates stops the loop for 80 ms
    )


def curl() -> str:
    """How a person calls curl for a server on this machine: past the proxy that the environment names."""
    return "curl --noproxy '*'" if getproxies() else "curl"


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
