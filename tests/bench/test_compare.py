"""Comparing the interfaces: the same text, an order that turns, medians of raw figures, a verdict."""

import asyncio
import json
import socket
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from standin import HELLO, streams, upstream
from support import command, shown
from typer.testing import CliRunner

from labkit import interfaces
from labkit.bench import compare, comparison
from labkit.bench.comparison import Comparison, Run
from labkit.bench.rounds import rotated
from labkit.cli.app import app
from labkit.errors import EngineFailed, InvalidRequest, StartError

ENGINE = "scripted:tokens=64,interval_ms=5"


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """What `labkit compare` prints, and its JSON."""
    path = tmp_path_factory.mktemp("compare") / "figures.json"
    result = command("compare", "hello", "--engine", ENGINE, "--repeat", "3", "--json", str(path))
    assert result.returncode == 0, result.stderr
    return result.stdout, json.loads(path.read_text(encoding="utf-8"))


def test_every_interface_brings_the_same_text(outcome: tuple[str, dict[str, Any]]) -> None:
    printed, figures = outcome
    assert figures["parameters"]["interfaces"] == interfaces.names()
    assert figures["same_text"] is True
    assert {text for texts in figures["texts"].values() for text in texts} == {figures["runs"][0]["text"]}
    assert "the same text" in printed
    assert all(name in printed for name in interfaces.names())


def test_the_order_turns_and_is_kept_in_the_raw_figures(outcome: tuple[str, dict[str, Any]]) -> None:
    _, figures = outcome
    names = interfaces.names()
    assert figures["order"] == [rotated(names, turn) for turn in range(3)]
    for turn, order in enumerate(figures["order"]):
        runs = [run for run in figures["runs"] if run["repeat"] == turn]
        assert [run["interface"] for run in sorted(runs, key=lambda run: run["place"])] == order


def test_medians_are_of_the_raw_figures(outcome: tuple[str, dict[str, Any]]) -> None:
    _, figures = outcome
    for name, row in figures["medians"].items():
        runs = [run for run in figures["runs"] if run["interface"] == name]
        assert row["n"] == len(runs) == 3
        for figure in ("ttft_ms", "tpot_ms", "e2e_ms", "itl_p50_ms", "itl_p99_ms", "chunks"):
            assert row[figure] == median(run[figure] for run in runs)


def test_an_interface_that_streams_shows_its_first_token_early(outcome: tuple[str, dict[str, Any]]) -> None:
    _, figures = outcome
    for name, row in figures["medians"].items():
        if interfaces.client(name).streams:
            assert row["ttft_ms"] < row["e2e_ms"] / 4
            assert row["chunks"] > 32
        else:
            assert row["ttft_ms"] == row["e2e_ms"]
            assert row["chunks"] == 1


def test_the_wire_carries_more_bytes_than_the_text_has(outcome: tuple[str, dict[str, Any]]) -> None:
    _, figures = outcome
    length = len(figures["runs"][0]["text"])
    for row in figures["medians"].values():
        assert row["bytes_down"] > length
        assert row["bytes_up"] > len("hello")


def test_figures_can_be_published(outcome: tuple[str, dict[str, Any]]) -> None:
    printed, figures = outcome
    text = json.dumps(figures)
    assert figures["machine"]["cores"] >= 1
    assert figures["machine"]["versions"]["labkit"]
    assert len(figures["machine"]["load_average"]) == 3
    assert str(Path.home()) not in text and str(Path.cwd()) not in text
    assert f'"{socket.gethostname()}"' not in text
    assert "\x1b" not in printed


def run(interface: str, text: str, **figures: float | None) -> Run:
    values: dict[str, Any] = {**dict.fromkeys(comparison.FIGURES), "tokens": 2, "chunks": 2, **figures}
    return Run(interface=interface, repeat=0, place=0, text=text, **values)


def unlike() -> Comparison:
    """Three interfaces, one of them with another text."""
    result = compare.blank()
    result.parameters.update(interfaces=["rest", "sse", "grpc"], engine="scripted")
    result.runs += [run("rest", "a"), run("sse", "b"), run("grpc", "a")]
    return result


def test_texts_that_differ_are_named_and_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(*_: object, comparison: Comparison, **__: object) -> None:
        comparison.parameters.update(unlike().parameters)
        comparison.runs += unlike().runs

    monkeypatch.setattr(compare, "compare", fill)
    result = CliRunner().invoke(app, ["compare"])
    assert result.exit_code == 1
    assert "the texts differ" in result.stdout
    assert "rest, grpc" in result.stdout


def test_texts_that_change_between_repeats_are_not_the_same() -> None:
    result = unlike()
    result.runs = [run("rest", "a"), run("rest", "b")]
    assert not result.same_text
    assert result.texts["rest"] == ["a", "b"]


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_fits_and_shows_a_dash_where_a_figure_is_undefined(width: int) -> None:
    result = unlike()
    large = {"ttft_ms": 98_765.4, "itl_p50_ms": 123.4, "itl_p99_ms": 9_876.5, "icl_p50_ms": 123.4}
    result.runs = [run("rest", "a"), run("sse", "a", **large, tpot_ms=123.4, e2e_ms=98_765.4)]
    result.bytes["sse"] = 1_000, 9_999_000
    text = shown(comparison.tables(result), width=width)
    assert "98,765" in text and "10,000,000" in text
    assert "–" in text and "…" not in text
    assert max(map(len, text.splitlines())) <= width


def test_a_notebook_compares_without_a_terminal() -> None:
    steps: list[str] = []
    result = compare.compare(
        "hello",
        engine="scripted:tokens=1,interval_ms=0",
        repeat=1,
        names=["sse", "sse", "rest"],
        isolation="thread",
        progress=lambda step, share: steps.append(step),
    )
    assert list(result.rows) == ["sse", "rest"]
    assert result.rows["sse"].tpot_ms is None
    assert result.rows["sse"].ttft_ms is not None
    assert steps[0] == "starting the servers" and steps[-1] == "done"


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"repeat": 0}, InvalidRequest),
        ({"tokens": 0}, InvalidRequest),
        ({"names": ["sse", "pigeon"]}, StartError),
        ({"engine": "steam"}, StartError),
        ({"engine": "scripted:fail_after=1,interval_ms=0", "names": ["sse"]}, EngineFailed),
    ],
)
def test_what_cannot_be_compared_is_refused(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        compare.compare(**{"engine": "scripted:tokens=2", "isolation": "thread", **options})


async def test_an_endpoint_gets_the_seed_without_which_its_texts_would_differ() -> None:
    async with upstream(streams(*HELLO)) as far:
        engine = f"openai:{far.url},model=any"
        arguments = ["compare", "--engine", engine, "--repeat", "1", "--isolation", "thread"]
        result = await asyncio.to_thread(command, *arguments)
    assert result.returncode == 0, result.stderr
    assert {call.body["seed"] for call in far.posts} == {1}
