"""What every engine offers a server: submit a request, get a stream of events."""

from typing import Protocol

from labkit.events import GenerateRequest
from labkit.stream import TokenStream


class Engine(Protocol):
    """A model that answers many requests at once; servers of any interface share it.

    `interval_ms` is its pace, the least time between two tokens of one stream: 0 is as fast as it can.
    It may be changed while streams run.
    """

    name: str
    interval_ms: float

    def submit(self, request: GenerateRequest) -> TokenStream:
        """Begin to answer, on the caller's running loop; closing the stream stops the work.

        Raises:
            InvalidRequest: this engine cannot answer it (a prompt longer than its context, say).
        """

    def close(self) -> None:
        """Stop all work and free what the engine holds; open streams end in `Failed`. May be called twice."""
