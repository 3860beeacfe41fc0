"""The protocol of live views, shown by a third one: boxes on a picture, on pages that lose messages."""

import random
import threading
import time
from queue import Queue
from types import SimpleNamespace
from typing import Any

import pytest
from chromium import chromium_page, needs_chromium
from fake_page import FakePage, wait_until
from support import PATIENCE_S

from labkit.widgets import live_view
from labkit.widgets.live_view import LiveView, page_files

Box = tuple[str, int, int, int, int]
"""A label, and x, y, width and height in px."""

pytestmark = pytest.mark.usefixtures("quick_pump")


class Boxes:
    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.boxes: list[Box] = []
        self._sent = 0

    def take(self, box: Box) -> None:
        self.boxes.append(box)

    def snapshot(self) -> dict[str, Any]:
        return {"keep": 0, "boxes": list(self.boxes)}

    def delta(self) -> dict[str, Any]:
        keep, self._sent = self._sent, len(self.boxes)
        return {"keep": keep, "boxes": self.boxes[keep:]}


SCRIPT = """
class BoxesView {
  constructor(root, { picture }) {
    this.stage = make("div", "stage", root);
    this.stage.style.cssText = `position: relative; height: 200px; background: ${picture}`;
    this.boxes = [];
  }

  take({ keep, boxes }) {
    this.boxes.splice(keep, Infinity, ...boxes);
  }

  paint() {
    this.stage.replaceChildren();
    for (const [label, x, y, width, height] of this.boxes) {
      const { style } = make("div", "box", this.stage, label);
      style.cssText = "position: absolute; outline: 2px solid gold";
      Object.assign(style, { left: `${x}px`, top: `${y}px`, width: `${width}px`, height: `${height}px` });
    }
  }
}
export default liveView("lk-boxes", BoxesView);
"""


class BoxesView(LiveView[Box, Boxes]):
    _esm = page_files("live_view.js") + SCRIPT

    def __init__(self, picture: str) -> None:
        super().__init__(Boxes(), {"picture": picture})


GREEN = "linear-gradient(green, olive)"
CAT, DOG, BIRD = ("cat", 10, 20, 80, 60), ("dog", 120, 40, 90, 90), ("bird", 250, 5, 30, 30)


def boxes_page(view: BoxesView, **options: Any) -> tuple[FakePage, list[Box]]:
    boxes: list[Box] = []

    def draw(change: dict[str, Any]) -> None:
        boxes[change["keep"] :] = change["boxes"]

    return FakePage(view, draw, **options), boxes


def put_from_four_threads(view: BoxesView, count: int) -> None:
    def produce(label: str) -> None:
        for i in range(count):
            view.put((label, i, 0, 1, 1))
            if i % 50 == 0:
                time.sleep(0.02)

    threads = [threading.Thread(target=produce, args=(label,)) for label in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def in_order(boxes: list[Box], count: int) -> bool:
    return all([x for who, x, *_ in boxes if who == label] == list(range(count)) for label in "abcd")


def test_a_page_gets_everything_once_and_in_order_in_few_messages() -> None:
    view = BoxesView(GREEN)
    page, boxes = boxes_page(view)
    put_from_four_threads(view, 800)
    wait_until(lambda: len(boxes) == 3200)
    assert in_order(boxes, 800)
    assert page.deltas == list(range(1, len(page.deltas) + 1))
    assert len(page.deltas) < 200
    assert page.resyncs == 0


def test_a_page_that_loses_a_fifth_of_the_messages_ends_with_everything() -> None:
    view = BoxesView(GREEN)
    chance = random.Random(7)
    _, boxes = boxes_page(view, loses=lambda sequence: chance.random() < 0.2)
    put_from_four_threads(view, 800)
    wait_until(lambda: len(boxes) == 3200)
    assert in_order(boxes, 800)


def test_a_page_that_misses_a_message_asks_for_a_snapshot(monkeypatch: pytest.MonkeyPatch) -> None:
    view = BoxesView(GREEN)
    page, boxes = boxes_page(view, loses=lambda sequence: sequence == 2)
    with monkeypatch.context() as stopped:
        stopped.setattr(live_view, "time", SimpleNamespace(monotonic=lambda: 0.0))
        for box in (CAT, DOG, BIRD):
            before = list(boxes)
            view._take([box])
    assert before == [CAT]
    assert boxes == [CAT, DOG, BIRD]
    assert page.resyncs == 1


def test_a_page_that_asks_gets_a_snapshot_though_nothing_is_new() -> None:
    view = BoxesView(GREEN)
    version = view.state["version"]
    view._on_page(view, {"resync": True}, [])
    wait_until(lambda: view.state["version"] == version + 1)


def test_a_snapshot_goes_out_every_second_and_twice_after_the_last_event(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 100.0
    monkeypatch.setattr(live_view, "SNAPSHOT_EVERY_S", 1.0)
    monkeypatch.setattr(live_view, "time", SimpleNamespace(monotonic=lambda: now))
    view = BoxesView(GREEN)
    snapshots: list[float] = []
    view.observe(lambda change: snapshots.append(now), names="state")
    again = True
    for tenth in range(50):
        now = 100 + tenth / 10
        again = view._take([CAT] if tenth < 25 else [])
        if not again:
            break
    assert snapshots == [100.0, 101.0, 102.0, 103.0, 104.0]
    assert now == 104.0
    assert len(view.state["snapshot"]["boxes"]) == 25


def test_a_flush_sends_all_at_once_and_clear_empties_the_page() -> None:
    view = BoxesView(GREEN)
    _, boxes = boxes_page(view)
    view.put(CAT)
    view.flush()
    assert boxes == view.state["snapshot"]["boxes"] == [CAT]
    view.clear()
    view.put(DOG)
    view.flush()
    assert boxes == view.state["snapshot"]["boxes"] == [DOG]


def test_the_content_of_a_view_is_a_copy() -> None:
    view = BoxesView(GREEN)
    view.put(CAT)
    content = view.content()
    view.put(DOG)
    assert view.content().boxes == [CAT, DOG]
    assert content.boxes == [CAT]


# Runs in the page: opens a view over a model that `deliver` feeds; `asked` has what the view sends.
OPEN = """async ([script, look, state]) => {
  const blob = new Blob([script], { type: "text/javascript" });
  const { default: widget } = await import(URL.createObjectURL(blob));
  const traits = { look, state }, handlers = {};
  window.asked = [];
  window.deliver = (event, value) => {
    if (event === "change:state") traits.state = value;
    handlers[event]?.(value);
  };
  const on = (event, handler) => (handlers[event] = handler), off = (event) => delete handlers[event];
  const model = { get: (name) => traits[name], on, off, send: (message) => window.asked.push(message) };
  window.close = widget.render({ model, el: document.body });
}"""


@needs_chromium
def test_boxes_in_a_browser_survive_a_lost_message() -> None:
    view = BoxesView(GREEN)
    queues: dict[str, Queue[Any]] = {"msg:custom": Queue(), "change:state": Queue()}
    with chromium_page(400, 260) as page:
        page.set_content("<!doctype html><body></body>")
        page.evaluate(OPEN, [view._esm, view.look, view.state])
        view.send = lambda message, buffers=None: queues["msg:custom"].put(message)

        def put(box: Box, lost: bool = False) -> None:
            view.put(box)
            message = queues["msg:custom"].get(timeout=PATIENCE_S)
            if not lost:
                page.evaluate("message => deliver('msg:custom', message)", message)

        def labels() -> list[str]:
            page.evaluate("() => new Promise(requestAnimationFrame)")
            return page.locator(".box").all_inner_texts()

        put(CAT)
        assert labels() == ["cat"]
        put(DOG, lost=True)
        put(BIRD)
        assert labels() == ["cat"]
        assert page.evaluate("asked") == [{"resync": True}]

        view.observe(lambda change: queues["change:state"].put(change["new"]), names="state")
        view._on_page(view, page.evaluate("asked[0]"), [])
        state = queues["change:state"].get(timeout=PATIENCE_S)
        page.evaluate("state => deliver('change:state', state)", state)
        assert labels() == ["cat", "dog", "bird"]
        place = page.locator(".box").nth(1).bounding_box()
        stage = page.locator(".stage").bounding_box()
        assert place and stage
        assert (place["x"] - stage["x"], place["y"] - stage["y"], place["width"]) == DOG[1:4]

        page.evaluate("window.close()")
        put(CAT)
        assert labels() == ["cat", "dog", "bird"]
