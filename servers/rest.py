"""REST: `POST /generate` answers with the whole text when it is complete."""

from typing import Annotated

from fastapi import Body, Request, Response

from labkit.errors import from_code
from labkit.events import Answer, Event, Failed, GenerateRequest
from labkit.service.service import Delivery, Service
from labkit.web.app import application, until_disconnected
from labkit.web.listener import AsgiListener
from labkit.wire import native


def create(service: Service) -> AsgiListener:
    app = application(service, "labkit REST")

    @app.post("/generate")
    async def generate(body: Annotated[GenerateRequest, Body()], request: Request) -> Response:
        delivery = service.generate(body)
        try:
            events = await until_disconnected(request, collect(delivery))
        finally:
            await delivery.aclose()
        return Response(native.answer_to_json(answer(events)), media_type="application/json")

    return AsgiListener(app)


async def collect(delivery: Delivery) -> list[Event]:
    return [event async for group in delivery for event in group]


def answer(events: list[Event]) -> Answer:
    """The events as one answer.

    Raises:
        LabkitError: the stream failed; the app turns it into the status that fits.
    """
    last = events[-1]
    if isinstance(last, Failed):
        raise from_code(last.code, last.message)
    return Answer.from_events(events)
