"""Refuses what a careless client or a browser on a foreign page sends, before any app sees it."""

from collections.abc import Awaitable, Callable

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from labkit.net.loopback import is_loopback, is_own
from labkit.web.refusals import error_response

MAX_BODY = 256 * 1024
MAX_HEADERS = 16 * 1024
BODY_TOO_LARGE = f"the body is over {MAX_BODY} bytes"
OWN_PAGES = {"same-origin", "none"}
FOREIGN_PAGE = "requests from other origins are refused; to look at this address, type it into the browser"
HEADERS_TOO_LARGE = f"the address and the headers are over {MAX_HEADERS} bytes"


class Guard:
    """Wraps an app and refuses what must not reach it.

    A Host that is not this machine's gets 421. Otherwise any page that the user visits could read the streams
    of a server on loopback. If the server listens on another address, its user wants other hosts to reach it,
    so it does not check Host. A request from a page of another origin gets 403. A browser names the page by
    Origin, or, as for images, frames and links, by Sec-Fetch-Site alone (W3C Fetch Metadata): `none` is the
    user, who typed the address, and another port of this machine is another origin. A body over `MAX_BODY`
    bytes gets 413 as soon as its length is known.
    """

    def __init__(self, app: ASGIApp, host: str) -> None:
        self._app = app
        self._loopback = is_loopback(host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        refusal = self._refusal(headers)
        length = headers.get(b"content-length", "0")
        if sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEADERS:
            refusal = 431, "too_large", HEADERS_TOO_LARGE
        elif length.isdecimal() and int(length) > MAX_BODY:
            refusal = 413, "too_large", BODY_TOO_LARGE
        if refusal is not None:
            await _refuse(scope, receive, send, *refusal)
        elif scope["type"] == "http":
            await self._app(scope, _bounded(receive), send)
        else:
            await self._app(scope, receive, send)

    def _refusal(self, headers: dict[bytes, str]) -> tuple[int, str, str] | None:
        authority, origin = headers.get(b"host", ""), headers.get(b"origin", "")
        if self._loopback and not is_own(authority):
            return 421, "invalid_request", "this server answers for its own address alone"
        foreign = origin and origin.partition("://")[2].lower() != authority.lower()
        if foreign or headers.get(b"sec-fetch-site", "none") not in OWN_PAGES:
            return 403, "invalid_request", FOREIGN_PAGE
        return None


async def _refuse(scope: Scope, receive: Receive, send: Send, status: int, code: str, message: str) -> None:
    response = error_response(status, code, message)
    if scope["type"] == "websocket":
        await receive()
    await response(scope, receive, send)


def _bounded(receive: Receive) -> Callable[[], Awaitable[Message]]:
    """Count the bytes of a body that came without a length; reading past the limit raises."""
    size = 0

    async def counted() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > MAX_BODY:
            raise HTTPException(413, BODY_TOO_LARGE)
        return message

    return counted
