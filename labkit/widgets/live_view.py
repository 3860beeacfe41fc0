"""LiveView: the base of widgets that any thread may feed; the page follows although messages may be lost."""

import copy
import pathlib
import time
from collections.abc import Mapping
from typing import Any, Generic, Protocol, TypeVar

import anywidget
import traitlets

from labkit.widgets.pump import Inbox

_HERE = pathlib.Path(__file__).parent
SNAPSHOT_EVERY_S = 1.0

Event = TypeVar("Event")
Event_contra = TypeVar("Event_contra", contravariant=True)


class Content(Protocol[Event_contra]):
    """The content of a view, without a widget. It need not be thread-safe: the view calls it under a lock.

    A snapshot and a delta are JSON that the view's script understands. The page takes each delta once and in
    order. It takes a snapshot at any time, so a snapshot must tell the page to drop its old content.
    """

    def take(self, event: Event_contra, /) -> None:
        """Apply the next event."""

    def reset(self) -> None:
        """Become empty; the next delta tells the page."""

    def snapshot(self) -> Any:
        """Return all that a page needs to draw the content from nothing."""

    def delta(self) -> Any:
        """Return what changed since the last delta."""


Shown = TypeVar("Shown", bound=Content[Any])


def page_files(*names: str) -> str:
    """Join files of this folder into one text: a widget of anywidget has one script and one style sheet."""
    return "\n".join((_HERE / name).read_text(encoding="utf-8") for name in names)


class LiveView(anywidget.AnyWidget, Generic[Event, Shown]):
    """A widget that shows a `Content`. Any thread may put events; the page follows.

    A subclass needs a script that ends in `export default liveView(className, View)` (see `live_view.js`):

        class BoxesView(LiveView[Box, Boxes]):
            _esm = page_files("live_view.js", "boxes_view.js")

    Numbered deltas go out 30 times a second as messages, and any message may be lost. A page that finds a gap
    in the numbers asks for a snapshot. The trait `state` holds the newest snapshot. It is set when a page
    asks, every second while events come, and once more a second later. Only the pump and `flush` set it.

    Args:
        content: what the view shows; the view alone may touch it from then on.
        look: JSON that the script reads once, when a page opens the view.
    """

    look = traitlets.Dict().tag(sync=True)
    state = traitlets.Dict().tag(sync=True)

    def __init__(self, content: Shown, look: Mapping[str, Any]) -> None:
        self._content = content
        self._sequence = 0
        self._version = 0
        self._snapshots_owed = 0
        self._snapshot_at = 0.0
        self._snapshot_due = False
        super().__init__(look=dict(look), state=self._snapshot())
        self._inbox: Inbox[Event | None] = Inbox(self._take)
        self.on_msg(self._on_page)

    def put(self, event: Event) -> None:
        """Show an event. O(1), from any thread."""
        self._inbox.put(event)

    def clear(self) -> None:
        """Empty the view."""
        self._inbox.put(None)

    def flush(self) -> None:
        """Send everything that waits, and a snapshot, in the calling thread."""
        self._snapshot_due = True
        self._inbox.flush()

    def content(self) -> Shown:
        """Return a copy of what the view shows, with everything that was put in so far."""
        self.flush()
        with self._inbox.lock:
            return copy.deepcopy(self._content)

    def _take(self, events: list[Event | None]) -> bool:
        for event in events:
            if event is None:
                self._content.reset()
            else:
                self._content.take(event)
        if events:
            self._send_delta()
        due = time.monotonic() - self._snapshot_at >= SNAPSHOT_EVERY_S
        if self._snapshot_due or (due and self._snapshots_owed):
            self._send_snapshot()
        return self._snapshots_owed > 0

    def _send_delta(self) -> None:
        self._sequence += 1
        # The channel may lose one snapshot, so a page gets two after the last delta.
        self._snapshots_owed = 2
        self.send({"sequence": self._sequence, "delta": self._content.delta()})

    def _send_snapshot(self) -> None:
        self._snapshot_due = False
        self._snapshots_owed = max(0, self._snapshots_owed - 1)
        self._snapshot_at = time.monotonic()
        self.state = self._snapshot()

    def _snapshot(self) -> dict[str, Any]:
        # A trait that is set to an equal value is not sent; the version makes each snapshot another value.
        self._version += 1
        return {"version": self._version, "sequence": self._sequence, "snapshot": self._content.snapshot()}

    def _on_page(self, _widget: object, message: Mapping[str, Any], _buffers: object) -> None:
        # The kernel may call this in any thread, so it only leaves a mark for the pump.
        if message.get("resync"):
            self._snapshot_due = True
            self._inbox.wake()
