"""What the HTTP clients share: a pooled connection and labkit's errors from a response that is one."""

import json

import httpx

from labkit.errors import ConnectionLost, LabkitError, from_code

CODES = {413: "too_large", 431: "too_large", 503: "overloaded", 500: "engine_failed"}


def pooled(url: str) -> httpx.AsyncClient:
    """A client that sends JSON, keeps its connection, and waits 10 s for one and for ever for a token."""
    return httpx.AsyncClient(
        base_url=url,
        headers={"content-type": "application/json"},
        timeout=httpx.Timeout(10.0, read=None),
        limits=httpx.Limits(max_connections=None),
        trust_env=False,
        verify=url.startswith("https:"),  # to load certificates takes 80 ms, in which the loop stands still
    )


def refusal(status: int, body: bytes) -> LabkitError:
    """The error in a response that is none of the answer."""
    try:
        error = json.loads(body)["error"]
        return from_code(error["code"], error["message"])
    except (ValueError, KeyError, TypeError):
        text = body[:200].decode("utf-8", "replace")
        return from_code(CODES.get(status, "invalid_request"), f"HTTP {status}: {text}")


def lost(name: str, error: httpx.TransportError) -> ConnectionLost:
    return ConnectionLost(f"{name}: {str(error) or type(error).__name__}")
