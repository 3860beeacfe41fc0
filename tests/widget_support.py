"""Helpers of the widgets' tests: a page without a browser, one in Chromium, and waiting for the pump."""

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from labkit.widgets.live_view import LiveView

if TYPE_CHECKING:
    from playwright.sync_api import Page

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser"))), None)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="Chromium is not installed: apt-get install chromium"
)


def wait_until(condition: Callable[[], bool], within_s: float = 5.0) -> None:
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end, "did not come true in time"
        time.sleep(0.01)


@contextmanager
def chromium_page(width: int, height: int) -> "Iterator[Page]":
    """An empty page of Chromium without a screen."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": width, "height": height})
        page.set_default_timeout(30_000)
        yield page
        browser.close()


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
