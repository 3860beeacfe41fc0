"""Benchmarks at tiny sizes: their structure, that what they divide by is there, and that failures show."""

import asyncio
import io
import json
import os
import time
from dataclasses import asdict
from pathlib import Path

import pytest
from rich.console import Console
from test_cli import labkit as command

import labkit
from labkit import interfaces, report
from labkit.bench import machine, memory, raw, ruler, suite, transport
from labkit.bench.drains import drain
from labkit.bench.rounds import rotated
from labkit.errors import LabkitError


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
    figures = json.loads(path.read_text())
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
