"""What every client offers, and what it records: arrivals, and nothing derived from them."""

import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from labkit.errors import ConnectionLost
from labkit.events import Event, GenerateRequest, Terminal, Token


@dataclass(slots=True)
class Chunk:
    """What one read brought: at least one event. `received_ns` is `time.monotonic_ns` after the read."""

    received_ns: int
    events: list[Event]


@dataclass(slots=True)
class Recording:
    """One request as its client saw it. `labkit.figures.metrics` derives every figure from this."""

    interface: str
    sent_ns: int
    chunks: list[Chunk] = field(default_factory=list)

    @property
    def events(self) -> list[Event]:
        return [event for chunk in self.chunks for event in chunk.events]

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.events if isinstance(event, Token))

    @property
    def end(self) -> Terminal | None:
        """The terminal event; None while the stream runs."""
        last = self.chunks[-1].events[-1] if self.chunks else None
        return last if isinstance(last, Terminal) else None


class Client(ABC):
    """One connection to one server. An interface implements `chunks`, and `aclose` if it holds something.

    Made and used on one running loop: `async with SSEClient(server.url) as client: ...`
    """

    name: str

    def __init__(self, url: str) -> None:
        self.url = url

    @abstractmethod
    def chunks(self, request: GenerateRequest) -> AsyncGenerator[Chunk, None]:
        """Send the request and yield what each read brings, up to the terminal event.

        Closing the generator early tells the server to stop.

        Raises:
            Refused: the server did not accept the request (see `labkit.errors` for the kinds).
            ConnectionLost: no server there, or the stream broke off without a terminal event.
        """

    async def aclose(self) -> None:
        """Close the connection."""

    async def events(self, request: GenerateRequest) -> AsyncGenerator[Event, None]:
        """The events one by one; otherwise as `chunks`."""
        async with aclosing(self.chunks(request)) as chunks:
            async for chunk in chunks:
                for event in chunk.events:
                    yield event

    async def record(
        self, request: GenerateRequest, on_chunk: Callable[[Recording, Chunk], None] | None = None
    ) -> Recording:
        """Run one request to its end; `on_chunk` sees each chunk as it comes, before it is added.

        Raises:
            Refused, ConnectionLost: as `chunks`.
        """
        recording = Recording(self.name, time.monotonic_ns())
        async with aclosing(self.chunks(request)) as chunks:
            async for chunk in chunks:
                if on_chunk is not None:
                    on_chunk(recording, chunk)
                recording.chunks.append(chunk)
        if recording.end is None:
            raise ConnectionLost(f"{self.name}: the stream ended without a terminal event")
        return recording

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
