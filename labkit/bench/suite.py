"""Runs benchmarks by name, one after another, into one result that becomes JSON and tables."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from typing import Any, Protocol, cast

from rich.console import RenderableType

from labkit.bench import BENCHMARKS, machine
from labkit.bench.machine import Machine
from labkit.bench.rounds import BenchOptions, Progress, silent
from labkit.bench.table import machine_line
from labkit.errors import StartError


class Benchmark(Protocol):
    """What the module of a benchmark offers. Its result is a dataclass."""

    def run(self, options: BenchOptions, progress: Progress) -> Any:
        """Measure."""

    def tables(self, result: Any) -> RenderableType:
        """Draw a result for a terminal."""


@dataclass(frozen=True)
class Results:
    """The results by benchmark. The load average in `machine` is from before the first benchmark."""

    machine: Machine
    options: BenchOptions
    results: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """The machine, the options, and the result of each benchmark: None where it did not run."""
        figures = {name: asdict(self.results[name]) if name in self.results else None for name in BENCHMARKS}
        return {"machine": asdict(self.machine), "parameters": asdict(self.options), **figures}

    def tables(self) -> list[RenderableType]:
        """The tables of all results, then a line on the machine."""
        tables = [benchmark(name).tables(result) for name, result in self.results.items()]
        return [*tables, machine_line(self.machine)]


def benchmark(name: str) -> Benchmark:
    """The benchmark of this name.

    Raises:
        StartError: there is none.
    """
    if name not in BENCHMARKS:
        raise StartError(f"no benchmark {name!r}: there are {', '.join(BENCHMARKS)}")
    return cast(Benchmark, import_module(f"labkit.bench.{name}"))


def run(
    names: Sequence[str] = tuple(BENCHMARKS),
    options: BenchOptions | None = None,
    progress: Progress = silent,
) -> Results:
    """Run benchmarks. All together take six to seven minutes, or some seconds with `quick`.

    Raises:
        StartError: there is no benchmark of one of the names.
    """
    options = options or BenchOptions()
    chosen = {name: benchmark(name) for name in names}
    before = machine.describe()
    results: dict[str, Any] = {}
    for index, (name, each) in enumerate(chosen.items()):

        def report(step: str, share: float, index: int = index) -> None:
            progress(step, (index + share) / len(chosen))

        results[name] = each.run(options, report)
    progress("done", 1.0)
    return Results(before, options, results)
