"""ScheduleView: a Gantt of what a scheduler does with requests, KV held, readers' buffers."""

import copy
import pathlib
import threading
import time
from collections.abc import Mapping
from typing import Any

import anywidget
import traitlets

from labkit.engine.trace import Record
from labkit.widgets import palette
from labkit.widgets.picture import Picture
from labkit.widgets.pump import Inbox
from labkit.widgets.schedule import KEEP_SPANS, Schedule
from labkit.widgets.schedule_picture import schedule_picture
from labkit.widgets.states import LOOKS, LOW

_HERE = pathlib.Path(__file__).parent
_SETTLED_S = 1.0


class ScheduleView(anywidget.AnyWidget):
    """A row per request, KV tokens held, and unread tokens per reader, over the last `window_s` seconds.

        view = ScheduleView(kv_limit=4096)
        engine.watch(view.put)
        view                # display it

    Deltas go out 30 times a second over a channel that may lose messages; a page that misses one asks for
    the whole. The trait `state` is the whole: set when a page asks, and twice when records stop coming. The
    pump sets it, nobody else.

    Args:
        window_s: how many seconds are shown, of the clock of the records.
        kv_limit: how many tokens of KV there is room for; drawn as a line.
        most_rows: how many requests are shown at once; the earliest are folded away.

    Raises:
        ValueError: an argument is not positive.
    """

    _esm = "".join((_HERE / name).read_text() for name in ("schedule_run.js", "schedule_view.js"))
    _css = _HERE / "schedule_view.css"
    look = traitlets.Dict().tag(sync=True)
    state = traitlets.Dict().tag(sync=True)

    def __init__(self, window_s: float = 20.0, kv_limit: int | None = None, most_rows: int = 64) -> None:
        if kv_limit is not None and kv_limit < 1:
            raise ValueError(f"kv_limit must be positive, not {kv_limit}")
        self.kv_limit = kv_limit
        self._schedule = Schedule(window_s, most_rows)
        self._guard = threading.Lock()
        self._sequence = 0
        self._snapshots = 0
        self._snapshots_owed = 0
        self._sent_at = 0.0
        self._asked = False
        super().__init__(look=_look(window_s, kv_limit), state=self._snapshot())
        self._inbox: Inbox[Record | None] = Inbox(self._take)
        self.on_msg(self._on_page)

    def put(self, record: Record) -> None:
        """Show a record. O(1), from any thread."""
        self._inbox.put(record)

    def clear(self) -> None:
        """Empty the view; the next record is its new start."""
        self._inbox.put(None)

    def flush(self) -> None:
        """Send what waits now, in the calling thread, snapshot included."""
        self._asked = True
        self._inbox.flush()

    def schedule(self) -> Schedule:
        """A copy of what has been put so far, as far as it is kept."""
        self.flush()
        with self._guard:
            return copy.deepcopy(self._schedule)

    def picture(self) -> Picture:
        """What the view shows, as a PNG for a page without a kernel."""
        return schedule_picture(self)

    def __repr__(self) -> str:
        return "ScheduleView()"

    def _take(self, records: list[Record | None]) -> bool:
        with self._guard:
            for record in records:
                if record is None:
                    self._schedule.reset()
                else:
                    self._schedule.put(record)
            if records:
                self._send_delta()
            if self._asked or (self._snapshots_owed and time.monotonic() - self._sent_at >= _SETTLED_S):
                self._send_snapshot()
        return self._snapshots_owed > 0

    def _send_delta(self) -> None:
        self._sequence += 1
        # Two, because either may be lost like any message.
        self._snapshots_owed = 2
        self._sent_at = time.monotonic()
        self.send({"sequence": self._sequence, **self._schedule.delta()})

    def _send_snapshot(self) -> None:
        self._asked = False
        self._snapshots_owed = max(0, self._snapshots_owed - 1)
        self._sent_at = time.monotonic()
        self.state = self._snapshot()

    def _snapshot(self) -> dict[str, Any]:
        # Counted, so that a snapshot equal to the last one is a change all the same, and goes out.
        self._snapshots += 1
        return {"snapshot": self._snapshots, "sequence": self._sequence, **self._schedule.snapshot()}

    def _on_page(self, _widget: object, content: Mapping[str, Any], _buffers: object) -> None:
        # May run in any thread, with or without a loop: it only leaves a mark for the pump.
        if content.get("resync"):
            self._asked = True
            self._inbox.wake()


def _look(window_s: float, kv_limit: int | None) -> dict[str, Any]:
    return {
        "states": [{"name": name, **vars(look)} for name, look in LOOKS.items()],
        "colours": palette.STREAM_COLOURS,
        "low": LOW,
        "window_s": window_s,
        "kv_limit": kv_limit,
        "keep_spans": KEEP_SPANS,
    }
