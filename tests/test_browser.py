"""JupyterLab in Chromium, as a person sees it: chapter 00 and its knobs, and a schedule that moves."""

import json
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from statistics import median

import pytest
from chromium import chromium_page, needs_chromium
from jupyterlab import FIRST, jupyterlab
from playwright.sync_api import Error, Locator, Page, TimeoutError
from support import PATIENCE_S

TOKENS = 240
SHOTS = os.environ.get("LABKIT_SCREENSHOTS")  # a folder for screenshots, if you want to look at them

# Runs in the page: reads the token counter of one column every 20 ms.
SAMPLE = """async ([column, ms]) => {
  const counter = document.querySelectorAll(".lk-column")[column].querySelector(".lk-figure");
  const counts = [], end = performance.now() + ms;
  while (performance.now() < end) {
    counts.push(Number(counter.textContent.replace(",", "")) || 0);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  return counts;
}"""

# Two cells: four requests one after the other, with 20 ms for each token; the replay takes twelve seconds.
SCHEDULE = (
    """from labkit.engine.trace import Arrived, Iteration, Moved
from labkit.widgets import ScheduleView, replay
run = [Arrived(0, request, f"story {request}", 10, 75, 20.0) for request in range(4)]
for request in range(4):
    run.append(Moved(1.5 * request, request, "decode"))
    for step in range(75):
        now = 1.5 * request + 0.02 * step
        run.append(Iteration(now, now + 0.02, 0, 1, 10 + step, 0, 10 + step, 1, 3 - request, [request]))
    run.append(Moved(now + 0.02, request, "finished"))
view = ScheduleView(kv_limit=100)
view""",
    "playing = replay(run, view, speed=0.5)",
)
# Runs in the page: counts the pixels of a schedule's canvas that have the colour of a state in its legend.
PAINTED = """([place, state]) => {
  const view = document.querySelectorAll(".lk-schedule")[place];
  const bar = view.querySelectorAll(".lk-schedule-bar")[state];
  const [red, green, blue] = getComputedStyle(bar).backgroundColor.match(/\\d+/g).map(Number);
  const canvas = view.querySelector("canvas");
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  let count = 0;
  for (let i = 0; i < data.length; i += 4)
    if (data[i] === red && data[i + 1] === green && data[i + 2] === blue && data[i + 3] === 255) count += 1;
  return count;
}"""
DECODE, SWAPPED = 2, 5
TOOLBAR_PX = 90

# Two cells: twelve requests, memory for six of them, first come, first served.
PANEL = (
    """import labkit
from labkit.widgets import EnginePanel
engine = labkit.create_engine("tiny:kv_tokens=1024,preemption=swap")
asked = [labkit.GenerateRequest(prompt="Once", max_tokens=140, ignore_eos=True, reader_tps=15)] * 12
arrivals = [(0.0, request) for request in asked]
panel = EnginePanel(engine, arrivals, knobs=["policy"], policy="fcfs", pace_ms=30)
panel""",
    "len(panel.run())",
)

KERNEL = "window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel"
KERNEL_CONNECTED = f"() => {KERNEL}?.connectionStatus === 'connected'"
KERNEL_IS_THERE = f"() => {KERNEL}?.status === 'idle'"
RESTART = f"() => {{ {KERNEL}.restart(); }}"  # a promise that may never settle is not waited for

pytestmark = needs_chromium


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[str]:
    """The address of chapter 00 in a JupyterLab of this test's own."""
    with jupyterlab(tmp_path) as address:
        yield address


@pytest.fixture
def page() -> Iterator[Page]:
    with chromium_page(1500, 1150) as page:
        yield page


def test_the_tour_streams_and_its_knob_acts_while_it_does(lab: str, page: Page) -> None:
    outside: list[str] = []
    errors = errors_of(page)
    page.on(
        "request",
        lambda r: None if re.match(r"(http|ws)://127\.0\.0\.1|data:|blob:", r.url) else outside.append(r.url),
    )

    page.goto(lab)
    sse = page.locator(".lk-column").nth(1)
    run_all(page, until=sse.locator(".lk-text span").first)
    shoot(page, "begin")
    sse.scroll_into_view_if_needed()

    before = jumps(page.evaluate(SAMPLE, [1, 1000]))
    drawn = plotted(page)
    shoot(page, "every-token")
    slider = page.locator(".widget-slider .noUi-handle").first
    slider.focus()
    for _ in range(3):  # from every token to every 8 tokens
        slider.press("ArrowRight")
    page.wait_for_timeout(300)
    after = jumps(page.evaluate(SAMPLE, [1, 1500]))
    shoot(page, "every-8-tokens")

    assert sum(before) > 15, "tokens did not come while the cell ran"
    assert median(before) < 8, f"tokens came in lumps from the start: {before}"
    assert median(after) == 8, f"tokens did not begin to come by eights: {after}"
    assert plotted(page) != drawn, "the plot stood still"
    assert readout(page) == "every 8 tokens"
    finish(page)
    shoot(page, "finished")
    assert [counted(page.locator(".lk-column").nth(place)) for place in range(4)] == [TOKENS] * 4
    assert outside == []
    assert errors == []


@pytest.mark.parametrize(("width", "height"), [(1400, 800), (900, 800)])
@pytest.mark.parametrize("way", ["Run All", "Shift+Enter"])
def test_the_live_picture_starts_at_one_key_and_stays_in_view_with_its_knob(
    lab: str, way: str, width: int, height: int
) -> None:
    with chromium_page(width, height) as page:
        page.goto(lab)
        sse = page.locator(".lk-column").nth(1).locator(".lk-text span").first
        saved = page.locator(".jp-RenderedImage img").first
        saved.wait_for()
        assert height > saved.bounding_box()["y"] + 150, "the first screen shows the saved picture"  # type: ignore[index]
        if way == "Run All":
            run_all(page, until=sse)
        else:
            page.wait_for_function(KERNEL_IS_THERE)
            page.locator(".jp-CodeCell .cm-content").first.click()
            page.keyboard.press("Shift+Enter")
            sse.wait_for()
        page.wait_for_timeout(1500)
        shoot(page, f"live-{way}-{width}")
        for part in (".widget-slider .noUi-handle", ".lk-column >> nth=0", ".bqplot >> nth=0"):
            box = page.locator(part).first.bounding_box()
            assert box is not None
            assert box["y"] > TOOLBAR_PX, f"{part} lies under the toolbar"
            assert box["y"] + box["height"] <= height, f"{part} is below the page"
        waiting = page.locator(".lk-column").first.locator(".lk-wait")
        before = waiting.bounding_box()
        page.wait_for_timeout(500)
        after = waiting.bounding_box()
        assert before and after and after["width"] > before["width"] > 0, "REST's wait does not grow"


def test_a_schedule_moves_while_it_is_played_and_outlives_a_reload(
    lab: str, page: Page, tmp_path: Path
) -> None:
    errors = errors_of(page)
    write_notebook(tmp_path / "notebooks" / "schedule.ipynb", SCHEDULE)
    page.goto(lab.replace(FIRST, "schedule.ipynb"))
    canvas = page.locator(".lk-schedule canvas")
    run_all(page, until=canvas.and_(page.get_by_label(re.compile("[1-4] finished"))))
    painted = [page.evaluate(PAINTED, [0, DECODE])]
    shoot(page, "schedule-playing")

    page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")  # returns when it is saved
    page.reload()
    canvas.and_(page.get_by_label(re.compile("[1-4] finished"))).wait_for()
    painted.append(page.evaluate(PAINTED, [0, DECODE]))
    canvas.and_(page.get_by_label("4 finished")).wait_for()
    assert min(painted) > 1000, "nothing is drawn"

    # A second view is drawn from a snapshot; the first one was drawn piece by piece. Both look the same.
    page.wait_for_function(KERNEL_IS_THERE)
    command(page, "notebook:insert-cell-below")
    command(page, "notebook:enter-edit-mode")
    page.wait_for_timeout(300)
    page.keyboard.insert_text("view")
    page.keyboard.press("Shift+Enter")
    canvas.nth(1).wait_for()
    page.wait_for_timeout(1000)
    one, other = (canvas.nth(place).evaluate("canvas => canvas.toDataURL()") for place in range(2))
    assert one == other
    command(page, "apputils:change-theme", theme="JupyterLab Dark")
    page.wait_for_function("() => document.body.dataset.jpThemeLight === 'false'")
    page.wait_for_timeout(300)
    shoot(page, "schedule-dark")
    assert page.evaluate(PAINTED, [0, DECODE]) > 1000, "the canvas kept the colours of the light theme"
    assert errors == []


def test_a_policy_chosen_in_the_page_acts_on_the_requests_that_run(
    lab: str, page: Page, tmp_path: Path
) -> None:
    write_notebook(tmp_path / "notebooks" / "panel.ipynb", PANEL)
    page.goto(lab.replace(FIRST, "panel.ipynb"))
    run_all(page, until=page.locator(".lk-text span").first)
    page.wait_for_timeout(1500)
    shoot(page, "panel-fcfs")
    before = page.evaluate(PAINTED, [0, SWAPPED])
    text = page.locator(".lk-column").first.inner_text()
    page.locator(".widget-dropdown select").select_option("tokenflow")
    page.wait_for_timeout(2500)
    shoot(page, "panel-tokenflow")
    assert before == 0, "first come, first served swaps nobody out"
    assert page.evaluate(PAINTED, [0, SWAPPED]) > 100
    assert page.locator(".lk-column").first.inner_text() != text


def errors_of(page: Page) -> list[str]:
    """The errors in the page from now on, without JupyterLab's own on requests to a kernel that restarts."""
    errors: list[str] = []

    def note(error: Error) -> None:
        if not str(error).startswith("Canceled future for "):
            errors.append(str(error))

    page.on("pageerror", note)
    return errors


def run_all(page: Page, until: Locator) -> None:
    """Run every cell and wait for `until`.

    JupyterLab can lose the command while it opens a notebook, so this tries three times, each with a page and
    a kernel that are new.
    """
    for attempt in range(3):
        if attempt:
            page.reload()
            page.wait_for_function(KERNEL_CONNECTED)
            page.evaluate(RESTART)
            page.wait_for_timeout(2000)
        with suppress(TimeoutError):
            page.wait_for_function(KERNEL_IS_THERE, timeout=PATIENCE_S * 1000)
            page.locator(".jp-CodeCell").first.wait_for()
            command(page, "notebook:run-all-cells")
            until.wait_for(state="attached", timeout=PATIENCE_S * 1000)
            return
    pytest.fail(
        "all cells were run three times, and the notebook shows: " + page.locator(".jp-Notebook").inner_text()
    )


def command(page: Page, name: str, **options: str) -> None:
    """Start a command of JupyterLab and return at once."""
    run = "([name, options]) => { window.jupyterapp.commands.execute(name, options); }"
    page.evaluate(run, [name, options])


def write_notebook(path: Path, cells: tuple[str, ...]) -> None:
    code: dict[str, object] = {"cell_type": "code", "metadata": {}, "outputs": [], "execution_count": None}
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    notebook = {
        "nbformat": 4,
        "nbformat_minor": 5,
        "metadata": kernel,
        "cells": [{**code, "id": f"cell-{place}", "source": cell} for place, cell in enumerate(cells)],
    }
    path.write_text(json.dumps(notebook), encoding="utf-8")


def jumps(counts: list[int]) -> list[int]:
    """The steps by which the counter rose."""
    return [later - earlier for earlier, later in pairwise(counts) if later > earlier]


def plotted(page: Page) -> str:
    """The path of the plot's second line."""
    return page.locator(".bqplot path.line").nth(1).get_attribute("d") or ""


def readout(page: Page) -> str:
    return page.locator(".widget-slider .widget-readout").first.inner_text()


def counted(column: Locator) -> int:
    return int(column.locator(".lk-figure").first.inner_text())


def finish(page: Page) -> None:
    """Wait for the output of the last cell, which shows that the servers have stopped."""
    page.locator(".jp-OutputArea-output", has_text="<grpc server, stopped>").wait_for()


def shoot(page: Page, name: str) -> None:
    if SHOTS:
        page.screenshot(path=f"{SHOTS}/{name}.png")
