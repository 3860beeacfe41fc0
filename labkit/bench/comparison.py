"""The result of comparing the interfaces: every run, medians of them, the texts, a table and a verdict."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from statistics import median
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from labkit.bench.machine import Machine
from labkit.bench.table import number, table


@dataclass(frozen=True, kw_only=True)
class _Figures:
    """The compared figures of `labkit.figures.metrics.Figures`; None where one is undefined."""

    tokens: float | None
    chunks: float | None
    ttft_ms: float | None
    itl_p50_ms: float | None
    itl_p99_ms: float | None
    icl_p50_ms: float | None
    tpot_ms: float | None
    e2e_ms: float | None


@dataclass(frozen=True, kw_only=True)
class Run(_Figures):
    """One timed request; `place` is its turn within the repeat."""

    interface: str
    repeat: int
    place: int
    text: str


@dataclass(frozen=True, kw_only=True)
class Medians(_Figures):
    """Medians over the `n` repeats of one interface; bytes both ways, as the relay counted them."""

    interface: str
    n: int
    bytes_up: int | None
    bytes_down: int | None


FIGURES = [f.name for f in fields(_Figures)]


@dataclass
class Comparison:
    """All runs so far. It grows while it runs, so that a live table can show it."""

    machine: Machine
    parameters: dict[str, Any]
    order: list[list[str]] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    bytes: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def rows(self) -> dict[str, Medians]:
        return {name: self._row(name) for name in self.parameters["interfaces"]}

    @property
    def texts(self) -> dict[str, list[str]]:
        """The different texts of each interface: one, if all is well."""
        return {
            name: sorted({run.text for run in self.runs if run.interface == name})
            for name in self.parameters["interfaces"]
        }

    @property
    def same_text(self) -> bool:
        return len({run.text for run in self.runs}) <= 1

    def to_json(self) -> dict[str, Any]:
        return {
            "machine": asdict(self.machine),
            "parameters": self.parameters,
            "same_text": self.same_text,
            "texts": self.texts,
            "medians": {name: asdict(row) for name, row in self.rows.items()},
            "order": self.order,
            "runs": [asdict(run) for run in self.runs],
        }

    def _row(self, name: str) -> Medians:
        runs = [run for run in self.runs if run.interface == name]
        up, down = self.bytes.get(name, (None, None))
        figures = {figure: _median([getattr(run, figure) for run in runs]) for figure in FIGURES}
        return Medians(interface=name, n=len(runs), bytes_up=up, bytes_down=down, **figures)


def tables(result: Comparison) -> RenderableType:
    rows = list(result.rows.values())
    repeats = max((row.n for row in rows), default=0)
    tokens = max((row.tokens or 0 for row in rows), default=0)
    title = f"{result.parameters.get('engine', '')}: {tokens:g} tokens, medians of n = {repeats}, in ms"
    headings = ["", "TTFT", "ITL\np50", "ITL\np99", "ICL\np50", "TPOT", "E2E", "chunks", "bytes on\nthe wire"]
    return table(title, headings, map(_cells, rows))


def _cells(row: Medians) -> list[str]:
    times = (row.ttft_ms, row.itl_p50_ms, row.itl_p99_ms, row.icl_p50_ms, row.tpot_ms, row.e2e_ms)
    wire = None if row.bytes_down is None or row.bytes_up is None else row.bytes_up + row.bytes_down
    return [row.interface, *map(number, times), number(row.chunks, 0), number(wire, 0)]


def verdict(result: Comparison) -> Text:
    """One line: whether every interface brought the same text, or which ones differ."""
    if result.same_text:
        return Text("✓ the same text through every interface", style="green")
    groups: dict[tuple[str, ...], list[str]] = {}
    for name, texts in result.texts.items():
        groups.setdefault(tuple(texts), []).append(name)
    parts = " ≠ ".join(f"{', '.join(names)} ({len(texts)})" for texts, names in groups.items())
    return Text(f"✗ the texts differ (different texts in brackets): {parts}", style="bold red")


def _median(values: Sequence[float | None]) -> float | None:
    numbers = [value for value in values if value is not None]
    return median(numbers) if numbers else None
