"""What every engine offers a server: submit a request, get a stream of events."""

from typing import Any, Protocol, runtime_checkable

from labkit.stream import Stream


class Engine(Protocol):
    """A model that answers many requests at once; servers of any interface share it."""

    name: str

    @property
    def failed(self) -> str | None:
        """Why the engine no longer answers: it is closed, or has broken. None while it answers."""

    def submit(self, request: Any) -> Stream:
        """Begin to answer a workload's request, on the caller's running loop; closing the stream stops it.

        Raises:
            InvalidRequest: this engine cannot answer it (a prompt longer than its context, say).
            EngineFailed: the engine is closed, or has broken.
        """

    def tune(self, **knobs: Any) -> None:
        """Turn knobs while streams run.

        Every engine has `interval_ms`, its pace: the least time between two tokens of one stream. 0 means as
        fast as possible.

        Raises:
            InvalidRequest: no such knob, or a value is out of range; nothing was changed.
        """

    def close(self) -> None:
        """Stop all work and free what the engine holds; open streams end in `Failed`. May be called twice."""


@runtime_checkable
class Checkable(Protocol):
    """An engine that needs something outside of it, and can find out before a request whether it is there."""

    async def check(self) -> None:
        """Return within some seconds if it is there.

        Raises:
            LabkitError: what a request would fail with now.
        """
