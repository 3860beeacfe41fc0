"""The text form of engines: names, options, targets, and what is said when one of them is wrong."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from labkit import engine as engines
from labkit.engine import create_engine
from labkit.engine.openai import OpenAIEngine
from labkit.engine.scripted import ScriptedEngine
from labkit.errors import StartError


class Made:
    """An engine that remembers what it was made of."""

    def __init__(self, path: str, device: str = "cpu", layers: int = 1, folder: Path = Path()) -> None:
        self.given = (path, device, layers, folder)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts `Made` where the engine `hf` is looked up."""
    module = ModuleType("stand_in")
    module.Made = Made  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "stand_in", module)
    monkeypatch.setitem(engines.ENGINES, "hf", ("stand_in", "Made"))


def given(text: str) -> Any:
    engine = create_engine(text)
    assert isinstance(engine, Made)
    return engine.given


def test_options_have_the_types_that_the_constructor_declares() -> None:
    engine = create_engine("scripted:tokens=64,interval_ms=2")
    assert isinstance(engine, ScriptedEngine)
    assert (engine.tokens, engine.interval_ms, engine.fail_after) == (64, 2.0, None)


@pytest.mark.usefixtures("made")
def test_a_target_ends_at_the_first_comma() -> None:
    assert given("hf:a/model") == ("a/model", "cpu", 1, Path())
    assert given("hf:/c:/odd=name") == ("/c:/odd=name", "cpu", 1, Path())
    assert given("hf:m,device=cuda:0,layers=3,folder=/x") == ("m", "cuda:0", 3, Path("/x"))


def test_a_url_is_a_target() -> None:
    engine = create_engine("openai:http://localhost:8001/v1/,model=llama3.2:1b,api=completions,timeout_s=5")
    assert isinstance(engine, OpenAIEngine)
    assert engine.url == "http://localhost:8001/v1"
    assert (engine.model, engine.api, engine.timeout_s) == ("llama3.2:1b", "completions", 5.0)


@pytest.mark.parametrize(
    ("text", "example"),
    [
        ("hf", "hf:path/to/model"),
        ("hf:", "hf:path/to/model"),
        ("hf:,layers=3", "hf:path/to/model"),
        ("openai", "openai:http://127.0.0.1:8001/v1"),
        ("openai:,model=x", "openai:http://127.0.0.1:8001/v1"),
        ("openai:localhost", "http://127.0.0.1:8001/v1"),
        ("openai:model=x", "http://127.0.0.1:8001/v1"),
        ("process", "process:tiny"),
        ("process:", "process:tiny"),
    ],
)
@pytest.mark.usefixtures("made")
def test_a_missing_or_wrong_target_is_said_with_an_example(text: str, example: str) -> None:
    with pytest.raises(StartError) as error:
        create_engine(text)
    assert example in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("hf:m,size=3", "engine 'hf' has no option 'size': there are device, layers, folder"),
        ("hf:m,path=n", "engine 'hf' has no option 'path'"),
        ("hf:m,layers=many", "layers='many': .*valid integer"),
        ("openai:http://127.0.0.1:1/v1,api=chats", "api='chats': .*'chat' or 'completions'"),
        ("openai:http://127.0.0.1:1/v1,timeout_s=0", "timeout_s"),
        ("openai:http://127.0.0.1:1/v1,key=sk-1", "no option 'key'"),
        ("scripted:interval_ms=-1", "interval_ms"),
        ("huge", "no engine 'huge': there are tiny, scripted, hf, openai, process"),
    ],
)
@pytest.mark.usefixtures("made")
def test_a_wrong_option_is_said_in_one_line(text: str, says: str) -> None:
    with pytest.raises(StartError, match=says) as error:
        create_engine(text)
    assert "\n" not in str(error.value)


def test_a_missing_package_is_said_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Lazy:
        def __init__(self, path: str) -> None:
            raise ModuleNotFoundError("No module named 'transformers'", name="transformers")

    module = ModuleType("stand_in")
    module.Lazy = Lazy  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "stand_in", module)
    for place in (("nowhere.at_all", "Engine"), ("stand_in", "Lazy")):
        monkeypatch.setitem(engines.ENGINES, "hf", place)
        with pytest.raises(StartError, match=r'^engine \'hf\' needs .*: pip install "labkit\[hf\]"$'):
            create_engine("hf:m")
    monkeypatch.setitem(engines.ENGINES, "scripted", ("nowhere", "Engine"))
    with pytest.raises(StartError, match=r"needs the package nowhere: pip install nowhere$"):
        create_engine("scripted")


def test_an_engine_in_a_process_takes_the_whole_rest() -> None:
    engine = create_engine("process:scripted:tokens=3,interval_ms=0")
    assert engine.name == "process:scripted"
    engines.close_engines()
    assert engine._closed  # type: ignore[attr-defined]
