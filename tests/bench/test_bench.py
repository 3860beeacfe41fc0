"""Benchmarks at tiny sizes: their structure, that what they divide by is there, and that failures show."""

import asyncio
import io
import json
import os
import sys
import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import pytest
from rich.console import Console
from support import command

import labkit
from labkit import interfaces
from labkit.bench import bounds, machine, memory, peers, raw, ruler, suite, transport
from labkit.bench.drains import drain
from labkit.bench.peer_process import Answer, PeerProcess
from labkit.bench.rounds import rotated
from labkit.cli import app as cli
from labkit.cli import report
from labkit.errors import LabkitError, StartError


def shown(*parts: object) -> str:
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(*parts)
    return console.export_text()


def test_the_order_turns_and_leaves_nobody_out() -> None:
    names = ["a", "b", "c"]
    assert [rotated(names, turn)[0] for turn in range(4)] == ["a", "b", "c", "a"]
    assert all(sorted(rotated(names, turn)) == names for turn in range(4))


def test_transport_divides_every_interface_by_raw_in_the_same_round() -> None:
    result = transport.measure(streams=(1, 2), tokens=16, rounds=2, cpu_s=0.05)
    names = ["raw", *interfaces.names()]
    measured = [(cost.interface, cost.streams) for cost in result.costs]
    assert measured == [(name, streams) for streams in (1, 2) for name in names]
    for cost in result.costs:
        assert len(cost.rounds_us) == 2
        assert min(cost.rounds_us) > 0
        assert cost.ratio > 0
        assert cost.target is None and cost.met is None
    assert [cost.ratio for cost in result.costs if cost.interface == "raw"] == [1.0, 1.0]
    assert "2 streams" in shown(report.transport_table(result))


@pytest.mark.parametrize(("ratio", "word"), [(2.9, "met"), (3.1, "not met")])
def test_a_target_is_met_or_not(ratio: float, word: str) -> None:
    cost = transport.Cost("sse", 64, 1, [1.0], 1.0, ratio, transport.TARGETS["sse"])
    assert cost.met is (word == "met")
    assert f"≤ 3× {word}" in shown(report.transport_table(transport.Transport(256, 1, [cost])))


@pytest.mark.parametrize("name", ["raw", *interfaces.names()])
def test_a_drain_reads_whole_answers(name: str) -> None:
    create = raw.create if name == "raw" else interfaces.server(name)
    with labkit.serve(create, "scripted:tokens=300,interval_ms=0") as server:
        asyncio.run(asyncio.wait_for(drain(name)(server.url, 300, 3), 10))


def test_a_drain_does_not_take_a_failure_for_an_answer(interface: str) -> None:
    with (
        labkit.serve(interface, "scripted:tokens=9,interval_ms=0,fail_after=3") as server,
        pytest.raises(LabkitError),
    ):
        asyncio.run(asyncio.wait_for(drain(interface)(server.url, 9, 1), 10))


def test_memory_fits_a_line_through_the_steps() -> None:
    result = memory.measure(["sse", "grpc"], streams=40, steps=2)
    assert [weight.interface for weight in result.weights] == ["raw", "sse", "grpc"]
    for weight in result.weights:
        assert weight.streams == [0, 20, 40]
        assert len(weight.resident_kib) == 3
        assert weight.kib_per_stream > 0
    assert "KiB" in shown(report.memory_table(result))


def test_the_ruler_knows_its_error_for_every_interface() -> None:
    result = ruler.measure(requests=6, tokens=2, interval_ms=1, engine="scripted:interval_ms=1", lag_s=0.2)
    assert [error.interface for error in result.errors] == interfaces.names()
    for error in result.errors:
        assert error.requests == 6
        assert 0 < error.ttft_p50_ms <= error.ttft_p99_ms
        assert error.ttft_p50_ms <= error.added_p99_ms
    assert [lag.streams for lag in result.lags] == [0, 1, 8]
    assert result.lags[0].tokens == 0 < result.lags[1].tokens < result.lags[2].tokens
    assert all(lag.ticks > 0 and lag.p50_ms <= lag.p99_ms for lag in result.lags)
    assert "TTFT error" in shown(report.ruler_table(result), report.lag_table(result))


def test_the_loop_can_be_measured_beside_the_model() -> None:
    lag = ruler.loop_lag("tiny", 2, 0.3)
    assert lag.tokens > 0
    assert lag.p99_ms >= lag.p50_ms


def test_cpu_time_of_a_process_grows_as_it_computes() -> None:
    before, own = machine.cpu_s(os.getpid()), time.process_time()
    while time.process_time() - own < 0.1:
        pass
    assert machine.cpu_s(os.getpid()) - before == pytest.approx(time.process_time() - own, abs=0.05)


def test_bench_writes_machine_parameters_rounds_and_medians(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    result = command("bench", "transport", "--quick", "--interfaces", "sse", "--json", str(path))
    assert result.returncode == 0, result.stderr
    assert "raw" in result.stdout and "\x1b" not in result.stdout
    figures = json.loads(path.read_text(encoding="utf-8"))
    assert figures["parameters"]["interfaces"] == ["sse"]
    assert figures["machine"]["versions"]["labkit"]
    assert figures["memory"] is None
    measured = figures["transport"]
    assert all(len(cost["rounds_us"]) == measured["rounds"] for cost in measured["costs"])


def test_results_become_json() -> None:
    weight = memory.Weight("raw", [0], [1], 2.0)
    results = suite.Results(machine.describe(), {}, memory=memory.Memory(1, [weight]))
    assert json.loads(json.dumps(results.to_json()))["memory"]["weights"][0]["kib_per_stream"] == 2.0
    assert asdict(results) == results.to_json()


def test_peers_choose_the_same_tokens_from_the_same_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(peers.LLAMA_PYTHON, raising=False)
    said: list[float] = []
    found = peers.measure(
        models=("tiny",), batches=(1, 2), tokens=12, rounds=2, progress=lambda what, done: said.append(done)
    )
    here = [name for name in (peers.OWN, peers.HF, peers.NAIVE) if name not in found.skipped]
    everybody = [(name, 1, 16) for name in here]
    everybody += [(name, 2, 16) for name in here if name != peers.NAIVE]
    everybody += [(name, 1, peers.LATE) for name in here if name != peers.HF]
    assert [(rate.peer, rate.case.batch, rate.case.prompt_tokens) for rate in found.rates] == everybody
    for rate in found.rates:
        assert len(rate.rounds_tokens_s) == 2 and min(rate.rounds_tokens_s) > 0
        assert rate.same_tokens == 1.0
        assert rate.ratio > 0 and rate.target is None
    assert [rate.ratio for rate in found.rates if rate.peer == peers.OWN] == [1.0, 1.0, 1.0]
    for rate in found.rates:
        assert (rate.bound is None) == (rate.peer == peers.NAIVE)
        assert rate.bound is None or rate.bound.share > 0
    for floors in found.floors["tiny"].values():
        assert floors.weights_bytes == 4 * 933_888
        assert floors.reading_s > 0 and floors.products_s > 0 and floors.starting_s > 0
        assert 50 < floors.operations < 500
    assert found.floors["tiny"].keys() == {1, 2}
    assert "tiny, batch 2: weights" in shown(report.engine_tables(found))
    assert found.parameters == {"tiny": 933_888}
    assert said == sorted(said) and 0 <= said[0] < said[-1] < 1
    assert f"{peers.LLAMA} is skipped: {peers.LLAMA_PYTHON}" in shown(report.engine_tables(found))


def case(model: str = peers.TARGET_MODEL, batch: int = 1, tokens: int = peers.TARGET_TOKENS) -> peers.Case:
    return peers.Case(model, batch, 16, tokens)


def answers(own_s: float, other_s: float, tokens: int = peers.TARGET_TOKENS) -> dict[str, Answer]:
    return {peers.OWN: Answer(own_s, [[7] * tokens]), peers.HF: Answer(other_s, [[7] * tokens])}


def test_a_peer_is_compared_within_each_round() -> None:
    rounds = [answers(1.0, 3.0), answers(10.0, 20.0), answers(1.0, 2.5)]
    rate = peers._rate(peers.HF, case("tiny"), rounds)
    assert rate.ratio == pytest.approx(2.5)
    assert rate.tokens_s == pytest.approx((peers.TARGET_TOKENS - 1) / 3.0)
    assert rate.target is None


@pytest.mark.parametrize(("seconds", "word"), [(1.7, "met"), (1.5, "not met")])
def test_a_target_of_the_engine_is_met_or_not(seconds: float, word: str) -> None:
    rate = peers._rate(peers.HF, case(), [answers(1.0, seconds)])
    found = peers.Peers(1, {peers.TARGET_MODEL: 5_000_000}, {}, {}, [rate])
    assert f"≥ 1.6× {word}" in shown(report.engine_tables(found))
    assert "1 × 16+200" in shown(report.engine_tables(found))


@pytest.mark.parametrize(
    ("reading_s", "products_s", "counted", "by", "share"),
    [
        (0.3, 0.5, True, "weights", 0.25),
        (0.1, 0.5, True, "products", 0.25),
        (0.1, 0.3, True, "dispatch", 0.2),
        (0.1, 0.3, False, "products", 0.15),
    ],
)
def test_a_row_says_what_bounds_it(
    reading_s: float, products_s: float, counted: bool, by: str, share: float
) -> None:
    floors = bounds.Floors(1000, reading_s, 2000, products_s, operations=100, starting_s=0.004)
    bound = bounds.bound_of(floors, 2.0, counted)
    assert bound.by == by
    assert bound.share == pytest.approx(share)


def test_the_table_shows_bounds_and_what_they_are_shares_of() -> None:
    floors = bounds.Floors(4_000_000_000, 0.1, 60_000_000_000, 0.6, operations=100, starting_s=0.7e-6)
    own = Answer(199 * 0.8, [[7] * peers.TARGET_TOKENS], asdict(floors))
    other = Answer(199 * 2.4, [[7] * peers.TARGET_TOKENS])
    rates = [peers._rate(name, case(), [{peers.OWN: own, peers.HF: other}]) for name in (peers.OWN, peers.HF)]
    result = peers.Peers(1, {peers.TARGET_MODEL: 1}, {}, {}, rates, {peers.TARGET_MODEL: {1: floors}})
    lines = shown(report.engine_tables(result))
    assert "products 75%" in lines and "products 25%" in lines
    assert "weights 40 GB/s, products 100 GFLOP/s, dispatch 100 × 0.7 µs" in lines


def test_what_has_no_cache_is_judged_behind_a_long_text() -> None:
    late = peers.Case(peers.TARGET_MODEL, 1, peers.LATE, peers.LATE_TOKENS)
    assert (late.target(peers.NAIVE), late.target(peers.HF)) == (peers.LATE_TARGET, None)
    assert case().target(peers.NAIVE) is None
    assert case(tokens=32).target(peers.HF) is None
    assert case("tiny").target(peers.HF) is None


def test_other_tokens_are_counted() -> None:
    given = {peers.OWN: Answer(1.0, [[1, 2], [3, 4]]), peers.HF: Answer(1.0, [[1, 2], [9, 4]])}
    assert peers._rate(peers.HF, case("tiny", 2), [given]).same_tokens == 0.75


def test_peers_that_are_not_here_say_what_they_need(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    optional = {name: peers.FILES[name] for name in (peers.HF, peers.LLAMA)}
    monkeypatch.setattr(peers, "FILES", optional)
    monkeypatch.setattr(peers, "find_spec", lambda name: None)
    monkeypatch.setenv(peers.LLAMA_PYTHON, str(tmp_path / "python"))
    with ExitStack() as stack:
        bench = peers._Bench(stack)
        assert bench.ready() == {}
    assert bench.skipped[peers.HF] == 'pip install "labkit[hf]"'
    assert "python does not start: No such file" in bench.skipped[peers.LLAMA]


PEER = """
PACKAGES = ("torch",)
loads = 0
def load(folder):
    global loads
    loads += 1
    def generate(prompts, tokens):
        print("not a reply")
        return 0.5, [[loads] * tokens for _ in prompts]
    return generate
"""


def test_a_peer_loads_each_model_once_and_may_print(tmp_path: Path) -> None:
    (tmp_path / "peer.py").write_text(PEER, encoding="utf-8")
    with PeerProcess("mine", str(tmp_path / "peer.py")) as peer:
        assert peer.ready().keys() == {"torch"}
        loads = [peer.ask(Path(folder), [[1], [2]], 3).tokens for folder in ("a", "a", "b")]
    assert loads == [[[1, 1, 1]] * 2, [[1, 1, 1]] * 2, [[2, 2, 2]] * 2]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import nothing_of_that_name", "No module named 'nothing_of_that_name'"),
        ("import sys; sys.exit(3)", "status 3"),
    ],
)
def test_a_peer_that_does_not_start_is_skipped_with_its_last_words(
    text: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "peer.py").write_text(text, encoding="utf-8")
    monkeypatch.setattr(peers, "FILES", {peers.LLAMA: str(tmp_path / "peer.py")})
    monkeypatch.setenv(peers.LLAMA_PYTHON, sys.executable)
    with ExitStack() as stack:
        bench = peers._Bench(stack)
        bench.ready()
        assert bench.names(case()) == []
    assert words in bench.skipped[peers.LLAMA]


def test_a_peer_that_breaks_later_says_why(tmp_path: Path) -> None:
    (tmp_path / "peer.py").write_text(
        PEER.replace('print("not a reply")', "raise ValueError('too much')"), encoding="utf-8"
    )
    with PeerProcess("mine", str(tmp_path / "peer.py")) as peer:
        peer.ready()
        with pytest.raises(StartError, match=r"mine: ValueError: too much \(peer\.py, line 8\)"):
            peer.ask(tmp_path, [[1]], 3)


def test_the_engine_is_a_benchmark_like_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    rate = peers._rate(peers.HF, case("tiny"), [answers(1.0, 2.0)])
    found = peers.Peers(1, {"tiny": 1}, {}, {}, [rate])
    asked: list[dict[str, object]] = []

    def measure(**options: object) -> peers.Peers:
        asked.append(options)
        return found

    monkeypatch.setattr(peers, "measure", measure)
    results = [suite.run(["engine"], quick=quick) for quick in (True, False)]
    assert asked[0]["rounds"] == 1 and "rounds" not in asked[1]
    assert json.loads(json.dumps(results[0].to_json()))["engine"]["rates"][0]["ratio"] == 2.0
    assert "Hugging Face" in shown(*report.results(results[0]))
    assert {each.value for each in cli.Benchmark} == {"all", *suite.NAMES}
