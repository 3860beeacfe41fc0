"""A refusal in labkit's one form, as a response or as bytes where no app has seen the request."""

from collections.abc import Mapping
from http import HTTPStatus

from fastapi.responses import JSONResponse


def error_response(
    status: int, code: str, message: str, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """Make the response `{"error": {"code", "message"}}`; an overloaded server says when to come again."""
    again = {"retry-after": "1"} if status == 503 else {}
    return JSONResponse({"error": {"code": code, "message": message}}, status, {**again, **(headers or {})})


def raw_refusal(status: int, code: str, message: str) -> bytes:
    """Encode the same response as HTTP/1.1, for a connection that closes after it."""
    response = error_response(status, code, message, {"connection": "close"})
    lines = [b"HTTP/1.1 %d %b" % (status, HTTPStatus(status).phrase.encode())]
    lines += [b"%b: %b" % header for header in response.raw_headers]
    return b"\r\n".join([*lines, b"", bytes(response.body)])
