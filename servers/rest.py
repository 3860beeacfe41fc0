"""REST: `POST /generate` answers with the whole text when it is complete."""

from typing import Annotated

from fastapi import Body, Request, Response
from pydantic import BeforeValidator

from labkit.errors import from_code
from labkit.events import Answer, Event, Failed, GenerateRequest, Group
from labkit.service.delivery import Delivery
from labkit.service.service import Service
from labkit.web.app import application, caller, until_disconnected
from labkit.web.listener import AsgiListener
from labkit.web.openapi import GENERATING, whole
from labkit.wire import native

GenerateBody = Annotated[GenerateRequest, BeforeValidator(GenerateRequest.parse), Body()]
ANSWERED = {**GENERATING, **whole(Answer, "The whole answer")}


def create(service: Service) -> AsgiListener:
    app = application(service, "labkit REST")

    @app.post("/generate", responses=ANSWERED)
    async def generate(body: GenerateBody, request: Request) -> Response:
        delivery = service.generate(body, caller(request))
        try:
            group = await until_disconnected(request, collect(delivery))
        finally:
            await delivery.aclose()
        return Response(native.to_json(answer(group)), media_type="application/json")

    return AsgiListener(app)


async def collect(delivery: Delivery) -> Group:
    """All events of an answer as one group, since REST writes once; the last flush is the time of all."""
    events: list[Event] = []
    flushed_ns = 0
    async for group in delivery:
        events += group.events
        flushed_ns = group.flushed_ns
    return Group(events, flushed_ns)


def answer(group: Group) -> Answer:
    """Fold the events of a whole stream into an answer, which is written now.

    Raises:
        LabkitError: the stream failed; the app turns it into the status that fits.
    """
    events = group.written()
    last = events[-1]
    if isinstance(last, Failed):
        raise from_code(last.code, last.message)
    return Answer.from_events(events)
