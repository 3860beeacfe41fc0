"""What every client offers, and the recording that it makes: arrivals, without any derived figure."""

import shlex
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from types import TracebackType
from typing import ClassVar, Self

from labkit.errors import ConnectionLost
from labkit.events import Event, Finished, GenerateRequest, Terminal, Token

END_S = 0.25
"""How long a client waits after the last event for the end of the response, after which it can go on with the
same connection. Some peers hold a response open."""


@dataclass(slots=True)
class Chunk:
    """The events of one read, at least one. `received_ns` is `time.monotonic_ns` after the read."""

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
    """One connection to one server, used on one running loop.

    A subclass sets `name` and implements `chunks`, and `aclose` if it holds something. It overrides the other
    class attributes and class methods where its interface differs from the defaults; no other place in the
    lab knows what is special about an interface.

        async with SSEClient(server.url) as client:
            recording = await client.record(GenerateRequest(prompt="Once upon a time"))
    """

    name: ClassVar[str]
    rank: ClassVar[int] = 100
    """The place in tables: low ranks first, equal ones by name. The four basic interfaces have 10 to 40."""
    streams: ClassVar[bool] = True
    """Whether tokens arrive while the model still generates; False where an answer arrives whole."""
    lacks: ClassVar[frozenset[str]] = frozenset()
    """What the wire does not carry: `"stamps"`, or `"ids"` (the client then numbers the events itself)."""
    cpu_target: ClassVar[float | None] = None
    """The most CPU time per token, as a multiple of raw sockets' (see `labkit bench transport`)."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    @abstractmethod
    def chunks(self, request: GenerateRequest) -> AsyncGenerator[Chunk, None]:
        """Send the request and yield each read's events, up to the terminal event.

        Closing the generator early tells the server to stop.

        Raises:
            Refused: the server did not accept the request (see `labkit.errors` for the kinds).
            ConnectionLost: there is no server, or the stream broke off without a terminal event.
        """

    def unreachable(self, reason: object) -> ConnectionLost:
        """The error of a client that gets no connection to its server."""
        return ConnectionLost(f"{self.name}: cannot connect to {self.url}: is the server running? ({reason})")

    async def aclose(self) -> None:
        """Close the connection."""

    @classmethod
    def example(cls, url: str, prompt: str) -> str:
        """A shell command that sends the prompt to the server at `url` and prints the answer."""
        return f"labkit stream {cls.name} {shlex.quote(prompt)} --url {url}"

    @classmethod
    async def drain(cls, url: str, request: GenerateRequest, answers: int) -> None:
        """Ask for `answers` answers, one after another on one connection, and drop them.

        Benchmarks load a server with this. An interface overrides it with the least work that reads an
        answer's bytes and recognizes a complete one; the default reads with the client itself.

        Raises:
            Refused: the server did not accept the request.
            ConnectionLost: an answer did not finish.
        """
        async with cls(url) as client:
            for _ in range(answers):
                recording = await client.record(request)
                if not isinstance(recording.end, Finished):
                    raise ConnectionLost(f"{cls.name}: an answer did not finish")

    async def events(self, request: GenerateRequest) -> AsyncGenerator[Event, None]:
        """The events one by one; otherwise as `chunks`."""
        async with aclosing(self.chunks(request)) as chunks:
            async for chunk in chunks:
                for event in chunk.events:
                    yield event

    async def record(
        self, request: GenerateRequest, on_chunk: Callable[[Recording, Chunk], None] | None = None
    ) -> Recording:
        """Run one request to its end. `on_chunk` gets each chunk as it arrives, before it is added.

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
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()
