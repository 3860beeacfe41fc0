"""SSE: `GET` and `POST /generate` stream the answer as server-sent events with ids."""

from typing import Annotated

from fastapi import Body, Query, Request

from labkit.events import GenerateRequest
from labkit.service.service import Service
from labkit.web.app import application, caller
from labkit.web.eventresponse import EventStream
from labkit.web.listener import AsgiListener


def create(service: Service) -> AsgiListener:
    app = application(service, "labkit SSE")

    @app.get("/generate")
    async def generate_get(query: Annotated[GenerateRequest, Query()], request: Request) -> EventStream:
        return EventStream(service.generate(query, caller(request)))

    @app.post("/generate")
    async def generate_post(body: Annotated[GenerateRequest, Body()], request: Request) -> EventStream:
        return EventStream(service.generate(body, caller(request)))

    return AsgiListener(app)
