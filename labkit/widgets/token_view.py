"""TokenView: streams side by side, each token tinted by how long it was waited for."""

import pathlib
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import anywidget
import traitlets

from labkit.widgets import palette
from labkit.widgets.columns import KEEP_CHARS, KEEP_RUNS, RUN_CHARS, Column
from labkit.widgets.picture import Picture, picture
from labkit.widgets.pump import Inbox

_HERE = pathlib.Path(__file__).parent
_SNAPSHOT_EVERY_S = 1.0
_ENDS = {"finish", "fail", "clear"}

_Event = tuple[str, int, str, int]
"""What happened (start, push, finish, fail, clear), in which column, with which text, when (ns)."""


class TokenView(anywidget.AnyWidget):
    """A column of tinted text per stream, fed from any thread.

    Deltas go out 30 times a second over a channel that may lose messages; a page that misses one asks for
    the whole. The trait `state` is the whole: set every second while tokens come, when a stream ends and once
    more a second later. The pump sets it, nobody else. Times are `time.monotonic_ns` of one clock.

    Args:
        streams: the columns' titles, from left to right.
        height_px: the height of a column's text.

    Raises:
        ValueError: no streams, or two of one name.
    """

    _esm = _HERE / "token_view.js"
    _css = _HERE / "token_view.css"
    look = traitlets.Dict().tag(sync=True)
    state = traitlets.Dict().tag(sync=True)

    def __init__(self, streams: Sequence[str], height_px: int = 200) -> None:
        if not streams or len(set(streams)) != len(streams):
            raise ValueError(f"streams must be named, each once: {list(streams)}")
        self._columns = [Column(name) for name in streams]
        self._places = {name: place for place, name in enumerate(streams)}
        self._sequence = 0
        self._snapshots = 0
        self._snapshots_owed = 0
        self._snapshot_at = 0.0
        self._asked = False
        super().__init__(look=_look(streams, height_px), state=self._snapshot())
        self._inbox: Inbox[_Event] = Inbox(self._take)
        self.on_msg(self._on_page)

    def start(self, stream: str, sent_ns: int) -> None:
        """A request was sent at `sent_ns`: the column empties, and its first token is tinted by its TTFT.

        Raises:
            KeyError: no such stream.
        """
        self._inbox.put(("start", self._places[stream], "", sent_ns))

    def push(self, stream: str, text: str, received_ns: int) -> None:
        """A token became readable at `received_ns`. O(1), from any thread.

        Raises:
            KeyError: no such stream.
        """
        self._inbox.put(("push", self._places[stream], text, received_ns))

    def finish(self, stream: str, note: str = "", *, failed: bool = False) -> None:
        """The stream ended; `note` says how, in red if it `failed`.

        Raises:
            KeyError: no such stream.
        """
        self._inbox.put(("fail" if failed else "finish", self._places[stream], note, 0))

    def clear(self) -> None:
        """Empty every column."""
        self._inbox.put(("clear", 0, "", 0))

    def flush(self) -> None:
        """Send what waits now, in the calling thread, snapshot included."""
        self._asked = True
        self._inbox.flush()

    def columns(self) -> Sequence[Column]:
        """The columns with all that was pushed so far."""
        self.flush()
        return self._columns

    def text(self, stream: str) -> str:
        """The stream's text as far as it is kept: its newest 40,000 characters.

        Raises:
            KeyError: no such stream.
        """
        return self.columns()[self._places[stream]].text()

    def picture(self) -> Picture:
        """What the view shows, as a PNG for a page without a kernel."""
        return picture(view=self)

    def __repr__(self) -> str:
        return f"TokenView({', '.join(self._places)})"

    def _take(self, events: list[_Event]) -> bool:
        for event in events:
            self._apply(event)
        kinds = {kind for kind, *_ in events}
        if events:
            everywhere = range(len(self._columns))
            self._send_delta(everywhere if "clear" in kinds else sorted({place for _, place, _, _ in events}))
        due = time.monotonic() - self._snapshot_at >= _SNAPSHOT_EVERY_S
        if self._asked or kinds & _ENDS or (due and self._snapshots_owed):
            self._send_snapshot()
        return self._snapshots_owed > 0

    def _apply(self, event: _Event) -> None:
        kind, place, text, at_ns = event
        column = self._columns[place]
        if kind == "push":
            column.push(text, at_ns)
        elif kind == "start":
            column.start(at_ns)
        elif kind == "clear":
            for each in self._columns:
                each.reset()
        else:
            column.finish(text, failed=kind == "fail")

    def _send_delta(self, places: Iterable[int]) -> None:
        self._sequence += 1
        # Two, because either may be lost like any message.
        self._snapshots_owed = 2
        columns = [[place, self._columns[place].delta()] for place in places]
        self.send({"sequence": self._sequence, "columns": columns})

    def _send_snapshot(self) -> None:
        self._asked = False
        self._snapshots_owed = max(0, self._snapshots_owed - 1)
        self._snapshot_at = time.monotonic()
        self.state = self._snapshot()

    def _snapshot(self) -> dict[str, Any]:
        # Counted, so that a snapshot equal to the last one is a change all the same, and goes out.
        self._snapshots += 1
        columns = [column.snapshot() for column in self._columns]
        return {"snapshot": self._snapshots, "sequence": self._sequence, "columns": columns}

    def _on_page(self, _widget: object, content: Mapping[str, Any], _buffers: object) -> None:
        # May run in any thread, with or without a loop: it only leaves a mark for the pump.
        if content.get("resync"):
            self._asked = True
            self._inbox.wake()


def _look(streams: Sequence[str], height_px: int) -> dict[str, Any]:
    return {
        "streams": [{"name": name, "colour": palette.stream_colour(i)} for i, name in enumerate(streams)],
        "tints": [vars(tint) for tint in palette.TINTS],
        "height_px": height_px,
        "keep_chars": KEEP_CHARS,
        "keep_runs": KEEP_RUNS,
        "run_chars": RUN_CHARS,
    }
