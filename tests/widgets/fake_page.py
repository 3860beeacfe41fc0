"""A page without a browser: follows a live view as live_view.js does, and may lose messages."""

import time
from collections.abc import Callable
from typing import Any

from support import PATIENCE_S

from labkit.widgets.live_view import LiveView


def wait_until(condition: Callable[[], bool], within_s: float = PATIENCE_S) -> None:
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end, "did not come true in time"
        time.sleep(0.01)


class FakePage:
    """Follows a view as live_view.js does; `draw` gets each change that is next in order.

    It loses the deltas whose number `loses` returns True for.
    """

    def __init__(
        self,
        view: LiveView[Any, Any],
        draw: Callable[[Any], None],
        loses: Callable[[int], bool] = lambda sequence: False,
    ) -> None:
        self._view, self._draw, self._loses = view, draw, loses
        self.sequence = -1
        self.deltas: list[int] = []
        self.resyncs = 0
        self._on_state(view.state)
        view.send = self._on_message
        view.observe(lambda change: self._on_state(change["new"]), names="state")

    def _on_state(self, state: dict[str, Any]) -> None:
        if state["sequence"] > self.sequence:
            self._take(state["sequence"], state["snapshot"])

    def _on_message(self, message: dict[str, Any], buffers: object = None) -> None:
        sequence = message["sequence"]
        self.deltas.append(sequence)
        if self._loses(sequence):
            return
        if sequence == self.sequence + 1:
            self._take(sequence, message["delta"])
        elif sequence > self.sequence:
            self.resyncs += 1
            self._view._on_page(self._view, {"resync": True}, [])

    def _take(self, sequence: int, change: Any) -> None:
        self.sequence = sequence
        self._draw(change)
