"""Race: one prompt over several servers at once, drawn live: tokens, latency, knobs that act at once."""

import asyncio
import time
from collections.abc import Coroutine, Sequence
from typing import Any

from labkit import interfaces
from labkit.client import Chunk, Client, Recording
from labkit.errors import LabkitError
from labkit.events import Failed, Finished, GenerateRequest, Terminal, Token
from labkit.launch.server import Server
from labkit.widgets.knobs import flush_knob, pace_knob, streams_knob
from labkit.widgets.latency_plot import LatencyPlot
from labkit.widgets.panel import Panel
from labkit.widgets.still.picture import Picture
from labkit.widgets.still.streams import picture
from labkit.widgets.token_view import TokenView

KNOBS = ("flush", "pace", "streams")
MOST_STREAMS = 8
LEAST_AXIS_S = 10.0
WARM_UP = GenerateRequest(prompt="warm up", max_tokens=1)


class Race(Panel[dict[str, Recording]]):
    """A panel with a column per server, the waits for tokens below, and knobs that act while it runs.

        race = Race(servers, labkit.GenerateRequest(prompt="Once upon a time", max_tokens=200))
        recordings = race.live()    # watch, and turn the knobs meanwhile

    Each client asks for one token first, so that all begin with an open connection. Knobs: `flush` sets every
    server's flush policy, `pace` the engine's interval, and `streams` how many streams each server carries.
    The panel draws the first stream of each; the others load the server. The plot's axis has the length of
    the run at the pace it begins with.

    Args:
        least_s: ask again until so many seconds are over; the recording is that of the first answer.

    Raises:
        ValueError: an unknown knob.
    """

    def __init__(
        self,
        servers: Sequence[Server],
        request: GenerateRequest,
        *,
        knobs: Sequence[str] = KNOBS,
        flush: str = "token",
        pace_ms: float = 25.0,
        streams: int = 1,
        least_s: float = 0.0,
    ) -> None:
        self._names = [server.name for server in servers]
        takes_s = max(LEAST_AXIS_S, 1.2 * least_s, request.max_tokens * pace_ms / 1e3)
        self.view = TokenView(self._names, wait_scale_s=takes_s)
        self.plot = LatencyPlot(self._names, window_s=takes_s)
        self.recordings: dict[str, Recording] = {}
        every_knob = {
            "flush": flush_knob(lambda policy: self._tune("flush", policy), flush),
            "pace": pace_knob(lambda ms: self._tune("interval_ms", ms), pace_ms),
            "streams": streams_knob(self._set_streams, MOST_STREAMS, streams),
        }
        self._settings: dict[str, Any] = {"flush": flush, "interval_ms": pace_ms}
        self._servers = list(servers)
        self._request = request
        self._streams = streams
        self._least_s = least_s
        super().__init__(every_knob, knobs, [self.view, self.plot])

    def prepare(self) -> list[Coroutine[Any, Any, None]]:
        self.recordings = {}
        self.view.clear()
        self.plot.clear()
        for knob, value in self._settings.items():
            self._tune(knob, value)
        return [self._run_server(server) for server in self._servers]

    def turned(self, text: str) -> None:
        self.plot.turn(text, time.monotonic_ns())

    def settle(self) -> None:
        self.view.flush()
        self.plot.flush()

    def wait(self, timeout: float | None = None) -> dict[str, Recording]:
        """Return what each client recorded, by interface, when every stream has ended.

        Raises:
            LabkitError: a request was refused, a stream broke off, or the race was stopped before its end.
            TimeoutError: the race took longer than `timeout` seconds; it is stopped.
        """
        self.finish(timeout)
        return {name: self.recordings[name] for name in self._names}

    def run(self, timeout: float | None = None) -> dict[str, Recording]:
        """Call `start`, then return what `wait` returns."""
        self.start()
        return self.wait(timeout)

    def picture(self) -> Picture:
        """Draw what the panel shows, as a picture that stays in the saved notebook."""
        return picture(self.view, self.plot)

    def __repr__(self) -> str:
        return f"Race({', '.join(self._names)}): a live panel, its picture is below"

    async def _run_server(self, server: Server) -> None:
        """Run the stream that is drawn, with the other streams beside it until it ends."""
        others: list[asyncio.Task[None]] = []
        keeper = asyncio.ensure_future(self._keep_others(server, others))
        try:
            await self._run_drawn(server)
        finally:
            for task in [keeper, *others]:
                task.cancel()
            await asyncio.gather(keeper, *others, return_exceptions=True)

    async def _run_drawn(self, server: Server) -> None:
        name = server.name
        async with interfaces.client(name)(server.url) as client:
            try:
                await client.record(WARM_UP)
                end = await self._record(client)
            except LabkitError as error:
                self.view.finish(name, str(error), failed=True)
                raise
            except asyncio.CancelledError:
                self.view.finish(name, "stopped")
                raise
            finally:
                self.plot.finish(name)
        match end:
            case Finished(reason=reason):
                self.view.finish(name, f"finished: {reason}")
            case Failed(message=message):
                self.view.finish(name, message, failed=True)

    async def _record(self, client: Client) -> Terminal | None:
        """Ask until `least_s` seconds are over, draw every answer, and keep the first one's recording."""
        tokens = _ReadableTokens(client.name, self.view, self.plot, time.monotonic_ns())

        def arrived(recording: Recording, chunk: Chunk) -> None:
            self.recordings.setdefault(client.name, recording)
            tokens.draw(chunk)

        ends_at = time.monotonic() + self._least_s
        while True:
            recording = await client.record(self._request, arrived)
            if not isinstance(recording.end, Finished) or time.monotonic() >= ends_at:
                return recording.end

    async def _keep_others(self, server: Server, others: list[asyncio.Task[None]]) -> None:
        """Keep the knob's number of other streams open."""
        while True:
            while len(others) < self._streams - 1:
                others.append(asyncio.ensure_future(self._repeat(server)))
            while len(others) > max(0, self._streams - 1):
                others.pop().cancel()
            await asyncio.sleep(0.05)

    async def _repeat(self, server: Server) -> None:
        async with interfaces.client(server.name)(server.url) as client:
            while True:
                await client.record(self._request)

    # The kernel may call a knob's callback in any thread, so a callback only sets a value.

    def _tune(self, knob: str, value: Any) -> None:
        self._settings[knob] = value
        for server in self._servers:
            server.tune(**{knob: value})

    def _set_streams(self, streams: int) -> None:
        self._streams = streams


class _ReadableTokens:
    """Draws one stream's tokens when they become readable (as `metrics.arrivals` counts them).

    A token without text, such as half a character, becomes readable with the next token that has text.
    """

    def __init__(self, name: str, view: TokenView, plot: LatencyPlot, sent_ns: int) -> None:
        self._name, self._view, self._plot = name, view, plot
        self._unreadable = 0
        self._last_ns = sent_ns
        view.start(name, sent_ns)
        plot.start(name, sent_ns)

    def draw(self, chunk: Chunk) -> None:
        for event in chunk.events:
            if isinstance(event, Token) and event.text:
                self._draw(event.text, chunk.received_ns)
            elif isinstance(event, Token):
                self._unreadable += 1

    def _draw(self, text: str, received_ns: int) -> None:
        self._view.push(self._name, text, received_ns)
        for _ in range(self._unreadable):
            self._view.push(self._name, "", received_ns)
        self._plot.push(self._name, received_ns, (received_ns - self._last_ns) / 1e6)
        self._unreadable, self._last_ns = 0, received_ns
