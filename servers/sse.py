"""SSE: `GET` and `POST /generate` stream the answer as server-sent events with ids."""

from typing import Annotated

from fastapi import Body, Query

from labkit.events import GenerateRequest
from labkit.service.service import Service
from labkit.web.app import application
from labkit.web.eventresponse import EventStream
from labkit.web.listener import AsgiListener


def create(service: Service) -> AsgiListener:
    app = application(service, "labkit SSE")

    @app.get("/generate")
    async def generate_get(query: Annotated[GenerateRequest, Query()]) -> EventStream:
        return EventStream(service.generate(query))

    @app.post("/generate")
    async def generate_post(body: Annotated[GenerateRequest, Body()]) -> EventStream:
        return EventStream(service.generate(body))

    return AsgiListener(app)
