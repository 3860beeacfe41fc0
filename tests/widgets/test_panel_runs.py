"""*Run again*, *stop*, and an interrupt of the cell that waits mean the same on every live panel."""

import gc
import inspect
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import ipywidgets
import pytest
from kernel import Kernel, kernel
from support import PATIENCE_S

import labkit
from labkit.background import LoopThread
from labkit.engine.trace import Moved
from labkit.errors import LabkitError, StartError
from labkit.widgets import EnginePanel, Race
from labkit.widgets.panel import Panel

pytestmark = pytest.mark.usefixtures("quick_pump")
ASK = labkit.GenerateRequest(prompt="Once", max_tokens=40, ignore_eos=True)


@pytest.fixture
def race() -> Iterator[Race]:
    engine = labkit.create_engine("scripted:tokens=40")
    servers = [labkit.serve(name, engine) for name in ("rest", "sse", "websocket", "grpc")]
    yield Race(servers, ASK, pace_ms=10, streams=2)
    for server in servers:
        server.stop()
    engine.close()


@pytest.fixture
def engine_panel() -> Iterator[EnginePanel]:
    engine: Any = labkit.create_engine("tiny")
    yield EnginePanel(engine, [(0.0, ASK)] * 2, pace_ms=10)
    engine.close()


@pytest.fixture(params=["race", "engine_panel"])
def panel(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


def whole(result: Any) -> bool:
    """Whether a run's result is that of one whole run.

    The engine may still have to drop the requests of the run before, and introduces them to the new one.
    """
    if isinstance(result, dict):
        return all(len(recording.events) == ASK.max_tokens + 2 for recording in result.values())
    return sum(isinstance(record, Moved) and record.state == "finished" for record in result) == 2


def buttons(widget: Any) -> Iterator[ipywidgets.Button]:
    """All buttons in a widget."""
    for child in getattr(widget, "children", ()):
        yield from [child] if isinstance(child, ipywidgets.Button) else buttons(child)


def press(panel: Panel[Any], name: str) -> None:
    """Press a button, as the page does."""
    button = next(button for button in buttons(panel) if button.description == name)
    assert not button.disabled
    button.click()


def meanwhile(panel: Panel[Any], act: Callable[[], None], times: int = 1) -> threading.Thread:
    """Do this in another thread, each time a little after a run has begun."""

    def acts() -> None:
        for _ in range(times):
            while not panel.running:
                time.sleep(0.01)
            time.sleep(0.1)
            act()

    thread = threading.Thread(target=acts)
    thread.start()
    return thread


def test_run_again_begins_anew_and_the_cell_that_waits_gets_the_new_run(panel: Any) -> None:
    begun: list[float] = []
    prepare = panel.prepare

    def counted() -> Any:
        begun.append(time.monotonic())
        return prepare()

    panel.prepare = counted
    pressing = meanwhile(panel, lambda: press(panel, "run again"), times=2)
    result = panel.run(timeout=PATIENCE_S)
    pressing.join()
    assert len(begun) == 3
    assert whole(result)


def test_run_again_begins_a_run_that_no_cell_waits_for(panel: Any) -> None:
    panel.run(timeout=PATIENCE_S)
    press(panel, "run again")
    panel.finish(timeout=PATIENCE_S)
    assert whole(getattr(panel, "recordings", None) or panel.records)


def test_stop_ends_the_run_for_the_cell_that_waits(panel: Any) -> None:
    pressing = meanwhile(panel, lambda: press(panel, "stop"))
    with pytest.raises(LabkitError, match="The run was stopped before its end"):
        panel.run(timeout=PATIENCE_S)
    pressing.join()
    press(panel, "stop")  # nothing runs: nothing happens
    assert whole(panel.run(timeout=PATIENCE_S))


def test_stop_ends_every_column_and_none_goes_on_counting_its_wait(panel: Any) -> None:
    panel.start()
    while not all(column.waiting or column.tokens for column in panel.view.columns()):
        time.sleep(0.01)
    press(panel, "stop")
    columns = panel.view.columns()
    assert {column.note for column in columns} == {"stopped"}
    assert not any(column.waiting for column in columns)


def test_an_interrupt_as_a_run_begins_leaves_no_coroutine_behind(
    panel: Any, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(LoopThread, "submit", interrupted)
        with pytest.raises(KeyboardInterrupt):
            panel.start()
    gc.collect()
    assert [warning for warning in recwarn if "never awaited" in str(warning.message)] == []


def test_a_run_that_takes_too_long_is_stopped(panel: Any) -> None:
    with pytest.raises(TimeoutError, match=r"still running after 0\.1 s"):
        panel.run(timeout=0.1)
    assert all(run.done() for run in panel._runs)


def test_a_failure_is_told_before_the_stop_that_it_causes(race: Race) -> None:
    race._servers[1].stop()
    with pytest.raises(LabkitError, match="not running") as raised:
        race.run(timeout=PATIENCE_S)
    assert isinstance(raised.value, StartError)


def test_a_button_tells_what_went_wrong(race: Race) -> None:
    race._servers[1].stop()
    press(race, "run again")
    assert "the sse server is not running" in race._message.value


SETUP = """import threading, ipywidgets, labkit
from collections.abc import Iterator
from typing import Any
from labkit.lesson import figures_table
from labkit.widgets import EnginePanel, Race
labkit.stop_all()
engine = labkit.create_engine("{engine}")
ask = labkit.GenerateRequest(prompt="Once", max_tokens=900, ignore_eos=True)
{panel}
{buttons}
def press(name, after_s):
    threading.Timer(after_s, next(b for b in buttons(panel) if b.description == name).click).start()"""
PANELS = {
    "race": (
        "scripted:tokens=900",
        'servers = [labkit.serve(name, engine) for name in ("rest", "sse", "websocket", "grpc")]\n'
        "panel = Race(servers, ask, streams=2)",
    ),
    "engine panel": ("tiny", "panel = EnginePanel(engine, [(0.0, ask), (0.1, ask)], pace_ms=10)"),
}


@pytest.fixture(scope="module", params=PANELS)
def chapter(request: pytest.FixtureRequest) -> Iterator[Kernel]:
    """A kernel in which a panel stands."""
    engine, panel = PANELS[request.param]
    with kernel() as running:
        assert (
            running.run(SETUP.format(engine=engine, panel=panel, buttons=inspect.getsource(buttons))).printed
            == ""
        )
        yield running


def assert_goes_on(chapter: Kernel) -> None:
    """The cells after a run that ended early: the picture, one that needs the result, one that does not."""
    picture = chapter.run("panel.picture()")
    assert picture.errors == []
    assert "no records to draw" in picture.printed or "image/png" in picture.data[0]
    assert chapter.run("figures_table(recordings)").lines[0].startswith("`recordings` is not there")
    assert chapter.run("print('next')").lines == ["next"]
    alive = "[t.name for t in threading.enumerate() if t.name == 'labkit-panel']"
    assert chapter.run(f"print({alive})").lines == ["[]"]


@pytest.mark.parametrize("after_s", [0.0, 0.05, 0.2, 0.6])
def test_an_interrupt_of_a_live_run_is_one_line(chapter: Kernel, after_s: float) -> None:
    ran = chapter.run("print('on')\nrecordings = panel.live()", interrupt_at="on", after_s=after_s)
    assert ran.errors == []
    assert ran.lines == ["on", "Interrupted. For its result, run this cell again."]
    assert after_s < 0.2 or "image/png" in ran.data[-1]  # what came until then
    assert_goes_on(chapter)


@pytest.mark.parametrize("after_s", [0.0, 0.05, 0.6])
def test_a_stop_of_a_live_run_is_one_line(chapter: Kernel, after_s: float) -> None:
    cell = f"press('run again', {after_s / 2})\npress('stop', {after_s + 0.1})\nrecordings = panel.live()"
    ran = chapter.run(cell)
    assert ran.errors == []
    assert ran.lines == ["The run was stopped before its end. For its result, run this cell again."]
    assert_goes_on(chapter)
