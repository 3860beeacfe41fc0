"""Results as tables for a terminal, narrow enough for 80 columns."""

import math
from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from labkit.bench.bounds import Floors
from labkit.bench.compare import Comparison, Row
from labkit.bench.machine import Machine
from labkit.bench.memory import Memory
from labkit.bench.peers import OWN, Peers, Rate
from labkit.bench.ruler import Ruler
from labkit.bench.simulator import Simulator
from labkit.bench.suite import Results
from labkit.bench.transport import Cost, Transport
from labkit.cli.doctor import Check

MARKS = {"ok": "[green]✓[/]", "missing": "[red]✗[/]", "absent": "[yellow]–[/]"}


def table(title: str, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> Group:
    """A plain table: names to the left, figures to the right, under a title that may be wider than it."""
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), collapse_padding=True)
    for index, heading in enumerate(headings):
        made.add_column(heading, justify="right" if index else "left", no_wrap=True)
    for row in rows:
        made.add_row(*row)
    return Group(Text(title, style="bold"), made)


def number(value: float | None, digits: int = 1) -> str:
    """A figure to read: a dash where it is undefined, fewer digits where it is large."""
    if value is None:
        return "–"
    return f"{value:,.{0 if abs(value) >= 10_000 else digits}f}"


def comparison_table(result: Comparison) -> Group:
    rows = list(result.rows.values())
    repeats = max((row.n for row in rows), default=0)
    tokens = max((row.tokens or 0 for row in rows), default=0)
    title = f"{result.parameters.get('engine', '')}: {tokens:g} tokens, medians of n = {repeats}, in ms"
    headings = ["", "TTFT", "ITL\np50", "ITL\np99", "ICL\np50", "TPOT", "E2E", "chunks", "bytes on\nthe wire"]
    return table(title, headings, [_comparison_row(row) for row in rows])


def _comparison_row(row: Row) -> list[str]:
    times = (row.ttft_ms, row.itl_p50_ms, row.itl_p99_ms, row.icl_p50_ms, row.tpot_ms, row.e2e_ms)
    wire = None if row.bytes_down is None or row.bytes_up is None else row.bytes_up + row.bytes_down
    return [row.interface, *map(number, times), number(row.chunks, 0), number(wire, 0)]


def verdict(result: Comparison) -> Text:
    """Whether every interface brought the same text, and which did not."""
    if result.same_text:
        return Text("✓ the same text through every interface", style="green")
    texts = result.texts
    groups: dict[tuple[str, ...], list[str]] = {}
    for name, found in texts.items():
        groups.setdefault(tuple(found), []).append(name)
    parts = " ≠ ".join(f"{', '.join(names)} ({len(found)})" for found, names in groups.items())
    return Text(f"✗ the texts differ (different texts in brackets): {parts}", style="bold red")


def watched(body: RenderableType, what: str, done: float) -> Group:
    """A table while it fills, with a line on how far it is."""
    line = Table.grid(padding=(0, 1))
    line.add_row(ProgressBar(total=1.0, completed=done, width=30), f"{done:4.0%}", Text(what, style="dim"))
    return Group(body, line)


def machine_line(machine: Machine) -> Text:
    load = " ".join(f"{value:.1f}" for value in machine.load_average)
    text = f"{machine.cpu}, {machine.cores} cores, Python {machine.python}, load before: {load}"
    return Text(text, style="dim")


def results(found: Results) -> list[RenderableType]:
    """All the tables of a run of benchmarks."""
    parts: list[RenderableType] = []
    if found.transport is not None:
        parts.append(transport_table(found.transport))
    if found.memory is not None:
        parts.append(memory_table(found.memory))
    if found.ruler is not None:
        parts += [ruler_table(found.ruler), lag_table(found.ruler)]
    if found.engine is not None:
        parts.append(engine_tables(found.engine))
    if found.simulator is not None:
        parts.append(simulator_table(found.simulator))
    return [*parts, machine_line(found.machine)]


def transport_table(found: Transport) -> Group:
    streams = list(dict.fromkeys(cost.streams for cost in found.costs))
    names = list(dict.fromkeys(cost.interface for cost in found.costs))
    cells = {(cost.interface, cost.streams): cost for cost in found.costs}
    headings = ["", *(f"{n} stream{'s' * (n > 1)}\nµs · × raw" for n in streams), "target"]
    rows = [
        [name, *(_cost(cells[name, n]) for n in streams), _target([cells[name, n] for n in streams])]
        for name in names
    ]
    title = f"CPU of the server per token ({found.tokens} a stream, a write each; medians of {found.rounds})"
    return table(title, headings, rows)


def _cost(cost: Cost) -> str:
    return f"{cost.us_per_token:.1f} · {cost.ratio:.2f}×"


def _target(costs: Sequence[Cost]) -> str:
    judged = [cost for cost in costs if cost.met is not None]
    return " ".join(f"≤ {cost.target:g}× {_met(bool(cost.met))}" for cost in judged)


def _met(met: bool) -> str:
    return "[green]met[/]" if met else "[red]not met[/]"


def memory_table(found: Memory) -> Group:
    rows = [
        [
            w.interface,
            number(w.kib_per_stream),
            number(w.resident_kib[0] / 1024),
            number(w.resident_kib[-1] / 1024),
        ]
        for w in found.weights
    ]
    headings = ["", "KiB a\nstream", "MiB before", f"MiB with\n{found.streams} more"]
    return table("Memory of the server's process per open stream", headings, rows)


def ruler_table(found: Ruler) -> Group:
    rows = [
        [
            e.interface,
            *(number(ms, 3) for ms in (e.ttft_p50_ms, e.ttft_p99_ms, e.added_p50_ms, e.added_p99_ms)),
            f"< {e.target_ms:g} ms {_met(e.met)}",
        ]
        for e in found.errors
    ]
    n = found.errors[0].requests if found.errors else 0
    title = f"What the clients add, in ms (n = {n} requests, a token every {found.interval_ms:g} ms)"
    headings = ["", "TTFT error\np50", "\np99", "sampled → received\np50", "\np99", "target, p99"]
    return table(title, headings, rows)


def lag_table(found: Ruler) -> Group:
    rows = [
        [f"{lag.streams}", f"{lag.tokens:,}", number(lag.p50_ms, 2), number(lag.p99_ms, 2)]
        for lag in found.lags
    ]
    name = found.lags[0].engine if found.lags else ""
    title = f"How late a loop wakes beside the {name} engine in the same process, in ms"
    return table(title, ["streams", "tokens", "p50", "p99"], rows)


def engine_tables(found: Peers) -> Group:
    """A table for each model; below them, what this machine gave, and which peers are not here and why.

    A share of equal tokens is rounded down, so that 100% is all of them.
    """
    headings = [
        "",
        "batch ×\ntokens",
        "tokens/s\nof CPU",
        "labkit\nis",
        "same\ntext",
        "target",
        "bound by,\npart",
    ]
    tables = [
        table(
            f"Decoding with the {model} model, {parameters / 1e6:.1f} million parameters",
            headings,
            [_rate_row(rate) for rate in found.rates if rate.case.model == model],
        )
        for model, parameters in found.parameters.items()
    ]
    versions = ", ".join(f"{name} {version}" for name, version in found.versions.items())
    return Group(
        *tables,
        *(
            _floors_line(model, batch, floors)
            for model, of_model in found.floors.items()
            for batch, floors in of_model.items()
        ),
        Text("The target is for “labkit is”: labkit's rate over the peer's in the same rounds.", style="dim"),
        Text(f"float32, one thread, greedy, medians of {found.rounds}; {versions}"),
        *(Text(f"{name} is skipped: {why}", style="yellow") for name, why in found.skipped.items()),
    )


def _rate_row(rate: Rate) -> list[str]:
    ratio = "" if rate.peer == OWN else f"{rate.ratio:.2f}×"
    target = "" if rate.target is None else f"≥ {rate.target:g}× {_met(bool(rate.met))}"
    asked = f"{rate.case.batch} × {rate.case.prompt_tokens}+{rate.case.tokens}"
    bound = "" if rate.bound is None else f"{rate.bound.by} {rate.bound.share:.0%}"
    return [
        rate.peer,
        asked,
        number(rate.tokens_s, 0),
        ratio,
        f"{math.floor(100 * rate.same_tokens)}%",
        target,
        bound,
    ]


def _floors_line(model: str, batch: int, floors: Floors) -> Text:
    """What the shares of a model's rows are of: the best that this machine gave for such a pass."""
    read, multiply = f"{floors.gigabytes_s:.0f} GB/s", f"{floors.gflops_s:.0f} GFLOP/s"
    dispatch = f"{floors.operations} × {floors.starting_s * 1e6:.1f} µs"
    line = f"{model}, batch {batch}: weights {read}, products {multiply}, dispatch {dispatch}"
    return Text(line, style="dim")


def simulator_table(found: Simulator) -> Group:
    headings = ["", "requests", "total, s", "p99 TTFT, ms", "machine\nchanged", "target"]
    rows = [
        [
            p.workload,
            f"{p.requests}",
            _foretold(p.total_s, p.predicted_total_s, p.total_error, 2),
            _foretold(p.ttft_p99_s * 1e3, p.predicted_ttft_p99_s * 1e3, p.ttft_error, 0),
            f"{p.drift:+.0%}",
            p.verdict,
        ]
        for p in found.predictions
    ]
    return table(f"Measured → simulated, policy {found.policy}", headings, rows)


def _foretold(measured: float, predicted: float, error: float, digits: int) -> str:
    return f"{number(measured, digits)} → {number(predicted, digits)} ({error:+.0%})"


def doctor_table(checks: Sequence[Check]) -> Table:
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for heading in ("", "what", "found", "to get it"):
        made.add_column(heading, overflow="fold")
    for check in checks:
        made.add_row(MARKS[check.state], check.name, check.found, check.remedy)
    return made
