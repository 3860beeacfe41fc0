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


def refusal(response: httpx.Response) -> LabkitError:
    """The error in a response whose body has been read."""
    try:
        error = response.json()["error"]
        return from_code(error["code"], error["message"])
    except (json.JSONDecodeError, KeyError, TypeError):
        code = CODES.get(response.status_code, "invalid_request")
        return from_code(code, f"HTTP {response.status_code}: {response.text[:200]}")


def lost(name: str, error: httpx.TransportError) -> ConnectionLost:
    return ConnectionLost(f"{name}: {str(error) or type(error).__name__}")
