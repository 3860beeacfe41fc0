"""SSE: `GET` and `POST /generate` stream the answer as server-sent events with ids.

A browser's EventSource asks again when a response has ended, with the `Last-Event-ID` that it has seen, and
goes on for ever unless the server answers 204 (HTML standard, 9.2.3). So the server remembers how the latest
GETs ended.
"""

from typing import Annotated

from fastapi import Body, Header, Query, Request, Response
from pydantic import BeforeValidator

from labkit.events import Event, Finished, GenerateRequest
from labkit.service.service import Service
from labkit.web.app import application, caller
from labkit.web.eventresponse import EventStream
from labkit.web.listener import AsgiListener
from labkit.web.openapi import GENERATING, Responses, event_stream

GenerateBody = Annotated[GenerateRequest, BeforeValidator(GenerateRequest.parse), Body()]
REMEMBERED = 1024
HEARD_OUT: Responses = {204: {"description": "This answer was told to its end: do not ask again"}}
ANSWERED = {**GENERATING, **event_stream(Event, "The answer's events, each with its kind and its id")}


def create(service: Service) -> AsgiListener:
    app = application(service, "labkit SSE")

    ends = Ends()

    @app.get("/generate", response_class=Response, responses={**ANSWERED, **HEARD_OUT})
    async def generate_get(
        query: Annotated[GenerateRequest, Query()],
        request: Request,
        last_event_id: Annotated[str, Header()] = "",
    ) -> Response:
        if ends.heard(query, last_event_id):
            return Response(status_code=204)
        delivery = service.generate(query, caller(request))
        return EventStream(delivery, on_end=lambda event: ends.remember(query, event))

    @app.post("/generate", response_class=Response, responses=ANSWERED)
    async def generate_post(body: GenerateBody, request: Request) -> EventStream:
        return EventStream(service.generate(body, caller(request)))

    return AsgiListener(app)


class Ends:
    """How the latest answers to GETs ended: the question, and the id of its `finished`."""

    def __init__(self) -> None:
        self._known: dict[int, None] = {}  # hashes, in order

    def remember(self, query: GenerateRequest, last: Event) -> None:
        if isinstance(last, Finished):
            self._known[_hash(query, str(last.id))] = None
            if len(self._known) > REMEMBERED:
                del self._known[next(iter(self._known))]

    def heard(self, query: GenerateRequest, last_event_id: str) -> bool:
        """Whether this is the id of the `finished` that ended an answer to the same question."""
        return _hash(query, last_event_id) in self._known


def _hash(query: GenerateRequest, event_id: str) -> int:
    return hash((query.model_dump_json(), event_id))
