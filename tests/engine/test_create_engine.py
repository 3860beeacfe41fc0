"""The text form of engines: names, options, targets, and the message when one of them is wrong."""

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


class StandIn:
    """An engine that keeps the arguments of its constructor."""

    def __init__(self, path: str, device: str = "cpu", layers: int = 1, folder: Path = Path()) -> None:
        self.arguments = (path, device, layers, folder)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have `StandIn` be the engine `hf`."""
    module = ModuleType("stand_in")
    module.StandIn = StandIn  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "stand_in", module)
    monkeypatch.setitem(engines.ENGINES, "hf", ("stand_in", "StandIn"))


def arguments(text: str) -> Any:
    engine = create_engine(text)
    assert isinstance(engine, StandIn)
    return engine.arguments


def test_options_have_the_types_that_the_constructor_declares() -> None:
    engine = create_engine("scripted:tokens=64,interval_ms=2")
    assert isinstance(engine, ScriptedEngine)
    assert (engine.tokens, engine.interval_ms, engine.fail_after) == (64, 2.0, None)


@pytest.mark.usefixtures("stand_in")
def test_a_target_ends_at_the_first_comma() -> None:
    assert arguments("hf:a/model") == ("a/model", "cpu", 1, Path())
    assert arguments("hf:/c:/odd=name") == ("/c:/odd=name", "cpu", 1, Path())
    assert arguments("hf:m,device=cuda:0,layers=3,folder=/x") == ("m", "cuda:0", 3, Path("/x"))


def test_a_url_is_a_target() -> None:
    engine = create_engine(
        "openai:http://localhost:8001/v1/,model=llama3.2:1b,api=completions,timeout_s=5,usage=1"
    )
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
@pytest.mark.usefixtures("stand_in")
def test_a_missing_or_wrong_target_is_refused_with_an_example(text: str, example: str) -> None:
    with pytest.raises(StartError) as error:
        create_engine(text)
    assert example in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("hf:m,size=3", "engine 'hf' has no option 'size': there are device, layers, folder"),
        ("hf:m,path=n", "engine 'hf' has no option 'path'"),
        ("hf:m,layers=many", "layers: .*valid integer.* not 'many'"),
        ("openai:http://127.0.0.1:1/v1,api=chats", "api: .*'chat' or 'completions', not 'chats'"),
        ("openai:http://127.0.0.1:1/v1,timeout_s=0", "timeout_s"),
        ("openai:http://127.0.0.1:1/v1,key=sk-1", "no option 'key'"),
        ("scripted:interval_ms=-1", "interval_ms"),
        ("huge", "no engine 'huge': there are tiny, scripted, hf, openai, process"),
    ],
)
@pytest.mark.usefixtures("stand_in")
def test_a_wrong_option_is_refused_in_one_line(text: str, says: str) -> None:
    with pytest.raises(StartError, match=says) as error:
        create_engine(text)
    assert "\n" not in str(error.value)


def test_a_missing_package_is_named_with_its_install_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
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


def test_the_target_of_process_is_the_whole_rest() -> None:
    engine = create_engine("process:scripted:tokens=3,interval_ms=0")
    assert engine.name == "process:scripted"
    engines.close_engines()
    assert engine._closed  # type: ignore[attr-defined]
