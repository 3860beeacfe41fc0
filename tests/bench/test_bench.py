"""Benchmarks at tiny sizes: their structure, what they divide by, what they refuse, and their registry."""

import asyncio
import json
import os
import time
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support import PATIENCE_S, ask, command, shown

import labkit
from labkit import interfaces
from labkit.bench import BENCHMARKS, engine, machine, memory, raw, ruler, simulator, suite, transport
from labkit.bench.rounds import BenchOptions, Progress, rotated
from labkit.errors import LabkitError, StartError


def test_the_order_turns_and_leaves_nobody_out() -> None:
    names = ["a", "b", "c"]
    assert [rotated(names, turn)[0] for turn in range(4)] == ["a", "b", "c", "a"]
    assert all(sorted(rotated(names, turn)) == names for turn in range(4))
    assert rotated([], 1) == []


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
    assert "2 streams" in shown(transport.tables(result))


def test_a_ratio_is_the_median_of_the_rounds_ratios() -> None:
    rounds = {"raw": [1.0, 10.0, 2.0], "sse": [2.0, 40.0, 5.0]}
    cost = transport._cost("sse", transport.TARGET_STREAMS, 1, rounds)
    assert (cost.us_per_token, cost.ratio) == (5.0, 2.5)
    assert cost.target == interfaces.client("sse").cpu_target
    assert transport._cost("sse", 1, 1, rounds).target is None


@pytest.mark.parametrize(("ratio", "word"), [(2.9, "met"), (3.1, "not met")])
def test_a_target_is_met_or_not(ratio: float, word: str) -> None:
    cost = transport.TokenCpu("sse", 64, 1, [1.0], 1.0, ratio, 3.0)
    assert cost.met is (word == "met")
    assert f"≤ 3× {word}" in shown(transport.tables(transport.Transport(256, 1, [cost])))


@pytest.mark.parametrize("prompt", ["measure", "a prompt that is longer than the shortest frame " * 3])
@pytest.mark.parametrize("name", ["raw", *interfaces.names()])
def test_a_drain_reads_complete_answers(name: str, prompt: str) -> None:
    with labkit.serve(raw.server(name), "scripted:tokens=300,interval_ms=0") as server:
        draining = raw.client(name).drain(server.url, ask(300, prompt=prompt), 3)
        asyncio.run(asyncio.wait_for(draining, PATIENCE_S))


@pytest.mark.parametrize("whose", ["own", "default"])
def test_a_drain_does_not_take_a_failure_for_an_answer(
    interface: str, whose: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = interfaces.client(interface)
    if whose == "default" and "drain" in vars(kind):
        monkeypatch.delattr(kind, "drain")
    with labkit.serve(interface, "scripted:tokens=9,interval_ms=0,fail_after=3") as server:
        asyncio.run(asyncio.wait_for(kind.drain(server.url, ask(3), 1), PATIENCE_S))
        with pytest.raises(LabkitError):
            asyncio.run(asyncio.wait_for(kind.drain(server.url, ask(9), 1), PATIENCE_S))


def test_memory_fits_a_line_through_the_steps() -> None:
    result = memory.measure(["rest", "grpc"], streams=40, steps=2)
    assert [weight.interface for weight in result.weights] == ["raw", "rest", "grpc"]
    for weight in result.weights:
        assert weight.streams == [0, 20, 40]
        assert len(weight.resident_kib) == 3
        assert weight.kib_per_stream > 0
    assert "KiB" in shown(memory.tables(result))


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
    assert "TTFT error" in shown(ruler.tables(result))


def test_the_ruler_leaves_out_an_interface_without_stamps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interfaces.client("sse"), "lacks", frozenset({"stamps"}))
    engine = "scripted:interval_ms=1"
    result = ruler.measure(["sse", "rest"], requests=4, tokens=1, interval_ms=1, engine=engine, lag_s=0.05)
    assert [error.interface for error in result.errors] == ["rest"]


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
    assert figures["parameters"] == {"interfaces": ["sse"], "engine": "tiny", "quick": True}
    assert figures["machine"]["versions"]["labkit"]
    assert figures["memory"] is None
    measured = figures["transport"]
    assert all(len(cost["rounds_us"]) == measured["rounds"] for cost in measured["costs"])


def test_results_become_json() -> None:
    weights = memory.Memory(1, [memory.Weight("raw", [0], [1], 2.0)])
    results = suite.Results(machine.describe(), BenchOptions(), {"memory": weights})
    figures = json.loads(json.dumps(results.to_json()))
    assert figures.keys() == {"machine", "parameters", *BENCHMARKS}
    assert figures["memory"] == asdict(weights)
    assert figures["engine"] is None


RESULTS: dict[str, Any] = {
    "transport": transport.Transport(9, 9, []),
    "memory": memory.Memory(9, []),
    "ruler": ruler.Ruler(9, 9.0, [], []),
    "engine": engine.Peers(9, {}, {}, {}, []),
    "simulator": simulator.Simulator("fcfs", 9, [], []),
}
QUICK: dict[str, dict[str, Any]] = {
    "transport": {"rounds": 2},
    "memory": {"streams": 20},
    "ruler": {"requests": 8},
    "engine": {"rounds": 1},
    "simulator": {"seconds": 1.0},
}


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_runs_by_its_name_and_draws_its_table(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, Any]] = []

    def measure(*names: object, **options: Any) -> Any:
        calls.append(options)
        return RESULTS[name]

    monkeypatch.setattr(suite.benchmark(name), "measure", measure)
    results = [suite.run([name], BenchOptions(quick=quick)) for quick in (True, False)]
    assert QUICK[name].items() <= calls[0].items()
    assert not QUICK[name].items() <= calls[1].items()
    assert results[0].results == {name: RESULTS[name]}
    assert "9" in shown(*results[0].tables())


def test_the_suite_runs_all_in_order_and_reports_the_share_of_the_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def run(options: BenchOptions, progress: Progress) -> str:
        progress("half", 0.5)
        return options.engine

    monkeypatch.setattr(suite, "benchmark", lambda name: SimpleNamespace(run=run))
    shares: list[float] = []
    results = suite.run(options=BenchOptions(engine="e"), progress=lambda step, share: shares.append(share))
    assert list(results.results.items()) == [(name, "e") for name in BENCHMARKS]
    assert shares == pytest.approx([0.1, 0.3, 0.5, 0.7, 0.9, 1.0])


def test_an_unknown_benchmark_is_refused() -> None:
    with pytest.raises(StartError, match=f"no benchmark 'speed': there are {', '.join(BENCHMARKS)}"):
        suite.run(["memory", "speed"])


def test_help_and_completion_list_the_registry() -> None:
    from labkit.cli.bench import _complete

    help_text = command("bench", "--help").stdout
    for name, line in BENCHMARKS.items():
        assert f"{name}: {line}" in " ".join(help_text.split())
    assert [name for name, _ in _complete("")] == ["all", *BENCHMARKS]
    assert [name for name, _ in _complete("m")] == ["memory"]
