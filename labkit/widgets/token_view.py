"""TokenView: streams side by side, each token tinted by the wait for it."""

from collections.abc import Sequence
from typing import Any

from labkit.widgets import palette
from labkit.widgets.columns import KEEP_CHARS, KEEP_RUNS, RUN_CHARS, Column, Columns, StreamEvent
from labkit.widgets.live_view import LiveView, page_files
from labkit.widgets.still.picture import Picture
from labkit.widgets.still.streams import picture


class TokenView(LiveView[StreamEvent, Columns]):
    """A column of tinted text per stream. Any thread may feed it; times are ns of one `time.monotonic_ns`.

    A method that takes a stream raises KeyError if no column has that name.

    Args:
        streams: the columns' titles, from left to right.
        height_px: the height of a column's text.
        wait_scale_s: the wait for a first token that fills its bar, in seconds.
        colours: each column's, if it is not the one that its name has everywhere (see `palette.colours_of`).
        legend: whether the page explains the tints.

    Raises:
        ValueError: no streams, or two of one name.
    """

    _esm = page_files("live_view.js", "token_view.js")
    _css = page_files("live_view.css", "token_view.css")

    def __init__(
        self,
        streams: Sequence[str],
        height_px: int = 150,
        wait_scale_s: float = 10.0,
        colours: Sequence[str] | None = None,
        legend: bool = True,
    ) -> None:
        self._places = palette.stream_places(streams)
        self.wait_scale_s = wait_scale_s
        look = {
            "streams": _named(streams, colours or palette.colours_of(streams)),
            "wait_scale_ms": 1e3 * wait_scale_s,
            "height_px": height_px,
            "legend": legend,
        }
        super().__init__(Columns(streams), look | _LOOK)

    def start(self, stream: str, sent_ns: int) -> None:
        """Empty the column for a request sent at `sent_ns`; its first token is tinted by its TTFT."""
        self.put(("start", self._places[stream], "", sent_ns))

    def push(self, stream: str, text: str, received_ns: int) -> None:
        """Show a token that became readable at `received_ns`. O(1)."""
        self.put(("push", self._places[stream], text, received_ns))

    def finish(self, stream: str, note: str = "", *, failed: bool = False) -> None:
        """Show how the stream ended: `note`, in red if it `failed`."""
        self.put(("fail" if failed else "finish", self._places[stream], note, 0))

    def columns(self) -> Sequence[Column]:
        """Return a copy of the columns, with everything that was pushed so far."""
        return self.content().columns

    def text(self, stream: str) -> str:
        """Return the stream's text as far as it is kept: its newest 40,000 characters."""
        return self.columns()[self._places[stream]].text()

    def picture(self) -> Picture:
        """Draw what the view shows, as a PNG for a page without a kernel."""
        return picture(view=self)

    def __repr__(self) -> str:
        return f"TokenView({', '.join(self._places)})"


def _named(streams: Sequence[str], colours: Sequence[str]) -> list[dict[str, str]]:
    return [{"name": name, "colour": colour} for name, colour in zip(streams, colours, strict=True)]


_LOOK: dict[str, Any] = {
    "tints": [vars(tint) for tint in palette.TINTS],
    "keep_chars": KEEP_CHARS,
    "keep_runs": KEEP_RUNS,
    "run_chars": RUN_CHARS,
}
