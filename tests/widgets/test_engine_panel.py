"""The panel around an engine: the results of a run, and its knobs."""

from collections.abc import Iterator

import pytest
from support import PATIENCE_S

from labkit.engine.local import LocalEngine
from labkit.engine.trace import Arrived, Moved
from labkit.errors import LabkitError
from labkit.events import GenerateRequest
from labkit.widgets import EnginePanel

ASK = GenerateRequest(prompt="Once", max_tokens=20, ignore_eos=True)

pytestmark = pytest.mark.usefixtures("quick_pump")


@pytest.fixture
def engine() -> Iterator[LocalEngine]:
    engine = LocalEngine(kv_tokens=1024)
    yield engine
    engine.close()


def test_a_run_leaves_its_records_its_texts_and_a_picture(engine: LocalEngine) -> None:
    panel = EnginePanel(engine, [(0.0, ASK), (0.05, ASK)], policy="fcfs")
    records = panel.run(timeout=PATIENCE_S)
    assert [r.name for r in records if isinstance(r, Arrived)] == ["1", "2"]
    assert sum(isinstance(r, Moved) and r.state == "finished" for r in records) == 2
    assert [column.tokens for column in panel.view.columns()] == [20, 20]
    assert "2 requests" in panel.picture().alt


def test_a_second_run_begins_from_nothing_and_the_engine_forgets_the_first(engine: LocalEngine) -> None:
    panel = EnginePanel(engine, [(0.0, ASK)])
    first = panel.run(timeout=PATIENCE_S)
    second = panel.run(timeout=PATIENCE_S)
    assert sum(isinstance(r, Arrived) for r in second) == 1
    assert sum(isinstance(r, Arrived) for r in first) == 1
    assert len(engine._core.watchers) == 0


def test_the_knobs_turn_the_engine(engine: LocalEngine) -> None:
    panel = EnginePanel(engine, [(0.0, ASK)], knobs=["policy", "budget", "pace"])
    panel.knobs["policy"].value = "static"
    panel.knobs["budget"].value = 64
    panel.knobs["pace"].value = 1.0
    panel.run(timeout=PATIENCE_S)
    assert (engine._core.policy.name, engine._core.limits.budget, engine.interval_ms) == ("static", 64, 1.0)


def test_a_run_that_is_stopped_says_so_and_frees_the_engine(engine: LocalEngine) -> None:
    panel = EnginePanel(engine, [(0.0, ASK.model_copy(update={"max_tokens": 800}))], pace_ms=20)
    panel.start()
    panel.stop()
    with pytest.raises(LabkitError, match="run this cell again"):
        panel.finish(timeout=PATIENCE_S)


@pytest.mark.parametrize("wrong", [{"knobs": ["speed"]}, {"arrivals": []}])
def test_a_wrong_panel_is_refused(engine: LocalEngine, wrong: dict[str, list[str]]) -> None:
    options = {"arrivals": [(0.0, ASK)], **wrong}
    with pytest.raises(ValueError, match=r"knob|at least one request"):
        EnginePanel(engine, **options)  # type: ignore[arg-type]
