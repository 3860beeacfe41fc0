"""What stands between an engine and any server: it admits callers and opens an answer for each.

A server file only translates: its protocol's request into `Service.generate`, groups of events into its
protocol's bytes.
"""

import logging
from uuid import uuid4

from labkit.engine.base import Engine
from labkit.errors import EngineFailed, LabkitError, Stopping
from labkit.events import Request
from labkit.log import failure
from labkit.service.admission import MAX_STREAMS, Admission, Caller
from labkit.service.delivery import Delivery
from labkit.service.flush import FlushKnob, FlushPolicy
from labkit.stream import Stream

_log = logging.getLogger(__name__)


class Service:
    """One server's share of an engine. Use it on the server's loop alone, except for `flush`."""

    def __init__(
        self, engine: Engine, flush: FlushPolicy | None = None, max_streams: int = MAX_STREAMS
    ) -> None:
        self.engine = engine
        self.admission = Admission(max_streams)
        self.stopping = False
        self._knob = FlushKnob(flush)
        self._open: dict[Delivery, Caller] = {}

    @property
    def flush(self) -> FlushPolicy:
        """The flush policy in force; any thread may replace it while streams run."""
        return self._knob.policy

    @flush.setter
    def flush(self, policy: FlushPolicy) -> None:
        self._knob.turn(policy)

    def generate(self, request: Request, caller: Caller) -> Delivery:
        """Begin to answer. Iterate the delivery, and close it whatever happens.

        Raises:
            InvalidRequest: the engine cannot answer this request.
            EngineFailed: the engine is closed, or has broken.
            Overloaded: the limits of `labkit.service.admission` leave no place.
            Stopping: the server is going away.
        """
        if self.stopping:
            raise Stopping("the server is stopping")
        if request.request_id is None:
            request = request.model_copy(update={"request_id": uuid4().hex[:12]})
        self.admission.enter(caller)
        try:
            stream = self._submit(request)
        except BaseException:
            self.admission.leave(caller)
            raise
        delivery = Delivery(stream, self._knob, self._closed)
        self._open[delivery] = caller
        return delivery

    def _submit(self, request: Request) -> Stream:
        try:
            return self.engine.submit(request)
        except LabkitError:
            raise
        except Exception as error:
            failure(_log, f"engine {self.engine.name}", error)
            raise EngineFailed(f"{self.engine.name} could not begin: {type(error).__name__}") from error

    def _closed(self, delivery: Delivery) -> None:
        self.admission.leave(self._open.pop(delivery))

    def health(self) -> dict[str, str | int]:
        """The state: `status` is `ok`, `stopping`, or `failed` if the engine no longer answers (`reason`)."""
        reason = self.engine.failed
        return {
            "status": "stopping" if self.stopping else "failed" if reason is not None else "ok",
            **({} if reason is None else {"reason": reason}),
            "engine": self.engine.name,
            "flush": str(self.flush),
            "open_streams": self.open_streams,
        }

    @property
    def open_streams(self) -> int:
        return self.admission.open_streams

    @property
    def deliveries(self) -> list[Delivery]:
        """The open answers, so that others can watch their streams."""
        return list(self._open)

    def stop(self) -> None:
        """Refuse new requests and end the open streams, each with `Failed("stopping")`."""
        self.stopping = True
        for delivery in list(self._open):
            delivery.abort("stopping", "the server is stopping")
