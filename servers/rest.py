"""REST: `POST /generate` answers with the whole text when it is complete."""

from collections.abc import Sequence
from typing import Annotated

from fastapi import Body, Request, Response

from labkit.errors import from_code
from labkit.events import Answer, Failed, GenerateRequest, Group
from labkit.service.delivery import Delivery
from labkit.service.service import Service
from labkit.web.app import application, caller, until_disconnected
from labkit.web.listener import AsgiListener
from labkit.wire import native


def create(service: Service) -> AsgiListener:
    app = application(service, "labkit REST")

    @app.post("/generate")
    async def generate(body: Annotated[GenerateRequest, Body()], request: Request) -> Response:
        delivery = service.generate(body, caller(request))
        try:
            groups = await until_disconnected(request, collect(delivery))
        finally:
            await delivery.aclose()
        return Response(native.to_json(answer(groups)), media_type="application/json")

    return AsgiListener(app)


async def collect(delivery: Delivery) -> list[Group]:
    return [group async for group in delivery]


def answer(groups: Sequence[Group]) -> Answer:
    """Fold the groups into one answer, which is written now.

    Raises:
        LabkitError: the stream failed; the app turns it into the status that fits.
    """
    events = [event for group in groups for event in group.written()]
    last = events[-1]
    if isinstance(last, Failed):
        raise from_code(last.code, last.message)
    return Answer.from_events(events)
