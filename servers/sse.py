"""SSE: `GET` and `POST /generate` stream the answer as server-sent events with ids."""

from typing import Annotated

from fastapi import Body, Query

from labkit.asgi import AsgiListener, application
from labkit.eventresponse import EventStream
from labkit.events import GenerateRequest
from labkit.service import Service


def create(service: Service) -> AsgiListener:
    app = application(service, "labkit SSE")

    @app.get("/generate")
    async def generate_get(query: Annotated[GenerateRequest, Query()]) -> EventStream:
        return EventStream(service.generate(query))

    @app.post("/generate")
    async def generate_post(body: Annotated[GenerateRequest, Body()]) -> EventStream:
        return EventStream(service.generate(body))

    return AsgiListener(app)
