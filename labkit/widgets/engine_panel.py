"""EnginePanel: an engine at work on many requests, drawn live: readers' buffers, Gantt, KV held, texts."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from labkit.engine.text_stream import TokenStream
from labkit.engine.trace import Record
from labkit.errors import EngineFailed
from labkit.events import Failed, Finished, GenerateRequest, Token
from labkit.widgets.knobs import Knob, budget_knob, pace_knob, policy_knob
from labkit.widgets.palette import stream_colour
from labkit.widgets.panel import Panel
from labkit.widgets.schedule import Turned
from labkit.widgets.schedule_view import ScheduleView
from labkit.widgets.still.picture import Picture
from labkit.widgets.still.schedule import schedule_picture
from labkit.widgets.token_view import TokenView

if TYPE_CHECKING:  # importing the engine imports torch, which other widgets do not need
    from labkit.engine.batched import BatchedEngine

DRAWN = 4

Arrival = tuple[float, GenerateRequest]
"""A request, and how many seconds after the start it comes."""


class EnginePanel(Panel[list[Record]]):
    """A panel around an engine of this process: how all requests are scheduled, and the texts of four.

    The four lie at equal distances in the order of arrival, so that the first and the last are among them.

        panel = EnginePanel(engine, [(0.0, request), (0.5, another)])
        records = panel.live()  # watch, and turn the knobs meanwhile

    Readers take every token at once, so the engine alone decides what the panel shows. `records` are those of
    the last run, for `labkit.engine.trace.save` and `labkit.widgets.replay`. Knobs: `policy`, `budget` and
    `pace`.

    Raises:
        ValueError: no requests, two of one `request_id`, or an unknown knob.
    """

    def __init__(
        self,
        engine: "BatchedEngine",
        arrivals: Sequence[Arrival],
        *,
        knobs: Sequence[str] = ("policy", "budget"),
        policy: str = "sarathi",
        budget: int = 0,
        pace_ms: float = 0.0,
        window_s: float = 10.0,
    ) -> None:
        self._requests = {r.request_id or str(n): (at_s, r) for n, (at_s, r) in enumerate(arrivals, 1)}
        if not arrivals or len(self._requests) != len(arrivals):
            raise ValueError("a panel takes at least one request, and each of another request_id")
        names = list(self._requests)
        self._drawn = _spread(names, DRAWN)
        colours = [stream_colour(names.index(name)) for name in self._drawn]  # those of their rows
        self.view = TokenView(self._drawn, height_px=64, wait_scale_s=window_s, colours=colours, legend=False)
        self.schedule = ScheduleView(window_s, kv_limit=engine.kv_limit)
        self.records: list[Record] = []
        self._turns: list[Turned] = []
        self._engine = engine
        self._settings: dict[str, Any] = {"policy": policy, "budget": budget, "interval_ms": pace_ms}
        self._unwatch: Callable[[], None] | None = None
        every_knob: dict[str, Knob] = {
            "policy": policy_knob(lambda name: self._tune("policy", name), policy),
            "budget": budget_knob(lambda tokens: self._tune("budget", tokens), budget),
            "pace": pace_knob(lambda ms: self._tune("interval_ms", ms), pace_ms),
        }
        super().__init__(every_knob, knobs, [self.schedule, self.view])

    def prepare(self) -> Sequence[Coroutine[Any, Any, None]]:
        self.settle()
        self.view.clear()
        self.schedule.clear()
        self.records = records = []
        self._turns = []
        self._engine.tune(**self._settings)

        def watch(record: Record) -> None:
            records.append(record)
            self.schedule.put(record)

        self._unwatch = self._engine.watch(watch)
        return [self._submit(name, *arrival) for name, arrival in self._requests.items()]

    def turned(self, text: str) -> None:
        turn = Turned(time.monotonic(), text)
        self._turns.append(turn)
        self.schedule.put(turn)

    def settle(self) -> None:
        if self._unwatch is not None:
            self._unwatch()
            self._unwatch = None
        self.view.flush()
        self.schedule.flush()

    def run(self, timeout: float | None = None) -> list[Record]:
        """Begin, and return the records when every request has ended; raise what `finish` raises."""
        self.start()
        self.finish(timeout)
        return self.records

    def picture(self) -> Picture:
        """Draw what the scheduler did in the last run, as a picture that stays in the saved notebook."""
        run: list[Record | Turned] = [*self.records, *self._turns]
        return schedule_picture(run, kv_limit=self._engine.kv_limit)

    def __repr__(self) -> str:
        return f"EnginePanel({self._engine.name}): a live panel, its picture is below"

    async def _submit(self, name: str, at_s: float, request: GenerateRequest) -> None:
        await asyncio.sleep(at_s)
        named = request.model_copy(update={"request_id": name})
        drawn = name in self._drawn
        if drawn:
            self.view.start(name, time.monotonic_ns())
        try:
            async with aclosing(self._engine.submit(named)) as stream:
                await self._read(name, stream, drawn)
        except asyncio.CancelledError:
            if drawn:
                self.view.finish(name, "stopped")
            raise

    async def _read(self, name: str, stream: TokenStream, drawn: bool) -> None:
        async for event in stream:
            if isinstance(event, Failed):
                raise EngineFailed(event.message)
            if drawn and isinstance(event, Token):
                self.view.push(name, event.text, time.monotonic_ns())
            elif drawn and isinstance(event, Finished):
                self.view.finish(name, f"finished: {event.reason}")

    def _tune(self, knob: str, value: Any) -> None:
        self._settings[knob] = value
        self._engine.tune(**{knob: value})


def _spread(names: Sequence[str], count: int) -> list[str]:
    """Return `count` of the names, from the first to the last, at equal distances."""
    last = len(names) - 1
    places = {round(step * last / max(1, count - 1)) for step in range(count)}
    return [names[place] for place in sorted(places)]
