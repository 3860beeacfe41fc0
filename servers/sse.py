"""SSE: `GET` and `POST /generate` stream the answer as server-sent events with ids."""

from typing import Annotated

from fastapi import Body, Query, Request, Response
from pydantic import BeforeValidator

from labkit.events import Event, GenerateRequest
from labkit.service.service import Service
from labkit.web.app import application, caller
from labkit.web.eventresponse import EventStream
from labkit.web.listener import AsgiListener
from labkit.web.openapi import GENERATING, event_stream

GenerateBody = Annotated[GenerateRequest, BeforeValidator(GenerateRequest.parse), Body()]
ANSWERED = {**GENERATING, **event_stream(Event, "The answer's events, each with its kind and its id")}


def create(service: Service) -> AsgiListener:
    app = application(service, "labkit SSE")

    @app.get("/generate", response_class=Response, responses=ANSWERED)
    async def generate_get(query: Annotated[GenerateRequest, Query()], request: Request) -> EventStream:
        return EventStream(service.generate(query, caller(request)))

    @app.post("/generate", response_class=Response, responses=ANSWERED)
    async def generate_post(body: GenerateBody, request: Request) -> EventStream:
        return EventStream(service.generate(body, caller(request)))

    return AsgiListener(app)
