"""What every FastAPI app of labkit shares: errors in one form, `/health`, an end when a client leaves."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.dependencies import models as dependency_models
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection

from labkit.errors import LabkitError
from labkit.events import explain
from labkit.service.admission import Caller
from labkit.service.service import Service
from labkit.web.guard import error_response

T = TypeVar("T")

STATUS = {
    "invalid_request": 422,
    "too_large": 413,
    "overloaded": 503,
    "stopping": 503,
    "engine_failed": 500,
}


def caller(connection: HTTPConnection) -> Caller:
    """Who sent this request."""
    return Caller(connection.client.host if connection.client else "")


async def until_disconnected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Run `work`, and cancel it if the client goes away, which a plain handler does not notice.

    Raises:
        HTTPException: the client has gone, so no one gets this answer (499, as nginx logs it).
    """
    task = asyncio.ensure_future(work)
    watcher = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({task, watcher}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise HTTPException(499, "the client went away")
        return task.result()
    finally:
        task.cancel()
        watcher.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def forget_handlers() -> None:
    """Empty FastAPI's caches of the handlers it has met: each handler holds its service and its engine."""
    for function in vars(dependency_models).values():
        if callable(clear := getattr(function, "cache_clear", None)):
            clear()


def application(service: Service, title: str) -> FastAPI:
    """Make a FastAPI app with `/health` and with every refusal in labkit's form.

    An error is always `{"error": {"code", "message"}}`; the message never echoes the input.
    """
    app = FastAPI(title=title)

    async def refused(_: Request, error: LabkitError) -> JSONResponse:
        return error_response(STATUS.get(error.code, 500), error.code, str(error))

    async def unreadable(_: Request, error: RequestValidationError) -> JSONResponse:
        return error_response(422, "invalid_request", explain(error.errors()))

    async def http_error(_: Request, error: HTTPException) -> JSONResponse:
        code = "too_large" if error.status_code == 413 else "invalid_request"
        return error_response(error.status_code, code, str(error.detail))

    handlers: dict[type[Exception], Any] = {
        LabkitError: refused,
        RequestValidationError: unreadable,
        HTTPException: http_error,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)

    @app.get("/health")
    async def health() -> JSONResponse:
        report = service.health()
        return JSONResponse(report, 503 if report["status"] == "failed" else 200)

    return app
