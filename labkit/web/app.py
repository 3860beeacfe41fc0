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
from starlette.routing import Route

from labkit.errors import LabkitError
from labkit.events import explain
from labkit.service.admission import Caller
from labkit.service.service import Service
from labkit.web.openapi import EVERYWHERE, Health
from labkit.web.refusals import error_response

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


async def _refused(_: Request, error: LabkitError) -> JSONResponse:
    return error_response(STATUS.get(error.code, 500), error.code, str(error))


async def _unreadable(_: Request, error: RequestValidationError) -> JSONResponse:
    return error_response(422, "invalid_request", explain(error.errors()))


async def _http_error(request: Request, error: HTTPException) -> JSONResponse:
    code = "too_large" if error.status_code == 413 else "invalid_request"
    headers = {"allow": _allowed(request)} if error.status_code == 405 else error.headers
    return error_response(error.status_code, code, str(error.detail), headers)


def _allowed(request: Request) -> str:
    """The methods of all routes at this address. Starlette's own header names those of the first alone."""
    path = request.url.path
    routes = [route for route in request.app.routes if isinstance(route, Route)]
    here = [route.methods or set() for route in routes if route.path_regex.match(path)]
    return ", ".join(sorted(set().union(*here)))


REFUSALS: dict[type[Exception], Any] = {
    LabkitError: _refused,
    RequestValidationError: _unreadable,
    HTTPException: _http_error,
}


def application(service: Service, title: str) -> FastAPI:
    """Make a FastAPI app with `/health` and with every refusal in labkit's form.

    An error is always `{"error": {"code", "message"}}`; the message never echoes the input. The app describes
    itself at `/openapi.json`. FastAPI's pages `/docs` and `/redoc` are off, because they load their scripts
    from other hosts.
    """
    app = FastAPI(title=title, docs_url=None, redoc_url=None, responses=EVERYWHERE)
    for kind, handler in REFUSALS.items():
        app.add_exception_handler(kind, handler)

    @app.head("/health", responses={503: {"description": "The engine no longer answers"}})
    @app.get("/health", responses={200: {"model": Health}, 503: {"model": Health}})
    async def health() -> JSONResponse:
        report = service.health()
        return JSONResponse(report, 503 if report["status"] == "failed" else 200)

    return app
