"""What a running server offers, in whichever thread or process it runs."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from labkit import interfaces
from labkit.background import LoopThread
from labkit.client import Recording
from labkit.errors import InvalidRequest
from labkit.events import GenerateRequest
from labkit.service.admission import MAX_STREAMS
from labkit.service.flush import parse_policy


@dataclass(frozen=True)
class ServerOptions:
    """How a server is to run; `labkit.serve` describes each option.

    Raises:
        InvalidRequest: `flush` is no policy, or `max_streams` is below 1.
    """

    host: str = "127.0.0.1"
    port: int = 0
    flush: str = "token"
    max_streams: int = MAX_STREAMS

    def __post_init__(self) -> None:
        parse_policy(self.flush)
        if self.max_streams < 1:
            raise InvalidRequest(f"max_streams: at least 1, not {self.max_streams}")


class Server(ABC):
    """A running server. It stops by `stop()`, at the end of `with`, by `stop_all()`, or with the process.

    A server to which no reference is left stops too. A notebook keeps a reference to every value it shows.
    """

    def __init__(self, name: str, options: ServerOptions) -> None:
        self.name = name
        self.options = options
        self.host = options.host
        self.port = options.port
        self.url = ""

    @abstractmethod
    def start(self) -> None:
        """Start the server, unless it runs. Raises `StartError`."""

    @abstractmethod
    def stop(self) -> None:
        """End the open streams, then close the sockets; within a second, unless the process hangs.

        It may be called twice, and from any thread.
        """

    @property
    @abstractmethod
    def running(self) -> bool: ...

    @abstractmethod
    def tune(self, *, flush: str | None = None, **knobs: Any) -> None:
        """Turn knobs while streams run: the flush policy, and the engine's own, such as `interval_ms`.

        Raises:
            InvalidRequest: no such policy, no such knob, or out of range.
            StartError: the server is not running.
        """

    def ask(self, request: GenerateRequest) -> Recording:
        """Send one request with this interface's client, wait for its end, and return the client's recording.

        This works where a loop already runs, as in a notebook. An interrupt stops the stream.

        Raises:
            Refused, ConnectionLost: as `Client.chunks`.
        """
        thread = LoopThread("labkit-ask")
        try:
            return thread.run(self._record(request))
        finally:
            thread.close()

    async def _record(self, request: GenerateRequest) -> Recording:
        async with interfaces.client(self.name)(self.url) as client:
            return await client.record(request)

    def _opened(self, scheme: str, port: int) -> None:
        self.port = port
        self.url = f"{scheme}://{f'[{self.host}]' if ':' in self.host else self.host}:{port}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<{self.name} server, {'running' if self.running else 'stopped'}>"
