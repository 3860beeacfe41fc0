"""The HTTP client of all that asks over HTTP: it asks again where a kept connection was dropped."""

from contextlib import suppress
from typing import Any

import httpx

DROPPED = (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError)


class HTTPClient(httpx.AsyncClient):
    """httpx's client, which sends a request again if the server has dropped the connection kept for it.

    A server may close an idle connection just as the next request travels on it; then nothing of an answer
    comes. A connection that was made for the request and ends without an answer is an error.
    """

    async def send(self, request: httpx.Request, **options: Any) -> httpx.Response:
        while True:
            seen = _Seen()
            request.extensions = {**request.extensions, "trace": seen}
            try:
                return await super().send(request, **options)
            except DROPPED:
                if seen.fresh or seen.answered:
                    raise


class _Seen:
    """What httpcore tells of one try (https://www.encode.io/httpcore/extensions/#trace)."""

    def __init__(self) -> None:
        self.fresh = False
        self.answered = False

    async def __call__(self, name: str, _details: Any) -> None:
        self.fresh = self.fresh or name.endswith("connect_tcp.started")
        self.answered = self.answered or name.endswith("receive_response_headers.complete")


def redirection(response: httpx.Response) -> str:
    """Where a redirect leads, in words and without a query; "" for any other response."""
    target = response.headers.get("location", "")
    if not (response.is_redirect and target):
        return ""
    with suppress(httpx.InvalidURL):
        target = str(response.request.url.join(target).copy_with(query=None))
    return f"it redirects to {target[:200]}, and redirects are not followed: use the address that it names"
