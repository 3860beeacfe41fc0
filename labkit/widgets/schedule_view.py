"""ScheduleView: a Gantt of what a scheduler does with requests, KV held, readers' buffers."""

from typing import Any

from labkit.engine.trace import Record
from labkit.widgets import palette
from labkit.widgets.live_view import LiveView, page_files
from labkit.widgets.request_row import KEEP_SPANS
from labkit.widgets.schedule import Schedule, Turned
from labkit.widgets.states import LOOKS, LOW
from labkit.widgets.still.picture import Picture
from labkit.widgets.still.schedule import schedule_picture


class ScheduleView(LiveView[Record | Turned, Schedule]):
    """A row per request, KV tokens held, and unread tokens per reader, over the last `window_s` seconds.

        view = ScheduleView(kv_limit=4096)
        engine.watch(view.put)
        view                # display it

    Args:
        window_s: how many seconds the view shows, of the records' clock.
        kv_limit: how many tokens of KV there is room for; drawn as a line.
        most_rows: how many requests the view shows at once; it folds away the earliest.

    Raises:
        ValueError: an argument is not positive.
    """

    _esm = page_files("live_view.js", "schedule.js", "schedule_view.js")
    _css = page_files("live_view.css", "schedule_view.css")

    def __init__(self, window_s: float = 20.0, kv_limit: int | None = None, most_rows: int = 64) -> None:
        if kv_limit is not None and kv_limit < 1:
            raise ValueError(f"kv_limit must be positive, not {kv_limit}")
        self.kv_limit = kv_limit
        super().__init__(Schedule(window_s, most_rows), _look(window_s, kv_limit))

    def schedule(self) -> Schedule:
        """Return a copy of what the view shows, with everything that was put in so far."""
        return self.content()

    def picture(self) -> Picture:
        """Draw what the view shows, as a PNG for a page without a kernel."""
        return schedule_picture(self)

    def __repr__(self) -> str:
        return "ScheduleView()"


def _look(window_s: float, kv_limit: int | None) -> dict[str, Any]:
    return {
        "states": [{"name": name, **vars(look)} for name, look in LOOKS.items()],
        "colours": palette.STREAM_COLOURS,
        "low": LOW,
        "window_s": window_s,
        "kv_limit": kv_limit,
        "keep_spans": KEEP_SPANS,
    }
