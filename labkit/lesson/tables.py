"""Tables of a chapter: the figures of recordings and of runs."""

from collections.abc import Mapping

from rich.table import Table

from labkit.client import Recording
from labkit.figures.metrics import figures
from labkit.sim.timelines import Summary

RUN_FIGURES: Mapping[str, tuple[str, int]] = {
    "tokens/s": ("tokens_per_s", 0),
    "effective tokens/s": ("effective_tokens_per_s", 0),
    "TTFT p50, s": ("ttft_p50_s", 2),
    "TTFT p99, s": ("ttft_p99_s", 2),
    "ITL p99, ms": ("itl_p99_ms", 0),
    "fluidity": ("fluidity", 3),
    "QoE": ("qoe", 3),
    "stall, s": ("stall_s", 2),
    "preempted": ("preemptions", 0),
}
"""The figures of a table of runs: the heading, `Summary`'s field and the digits after the point."""
READERS_FIGURES = ("TTFT p99, s", "effective tokens/s", "fluidity")
MOST_FIGURES = 4
"""More would be wider than 900 px."""


def figures_table(recordings: Mapping[str, Recording]) -> Table:
    """One row for each recording: its figures in milliseconds, as `labkit.figures.metrics` defines them."""
    table = Table(title="ms, on the client's clock")
    table.add_column("")
    for heading in ("TTFT", "ITL p50", "ITL p99", "TPOT", "E2E", "tokens", "chunks"):
        table.add_column(heading, justify="right")
    for name, recording in recordings.items():
        f = figures(recording)
        times = (f.ttft_ms, f.itl_p50_ms, f.itl_p99_ms, f.tpot_ms, f.e2e_ms)
        cells = ["–" if ms is None else f"{ms:,.1f}" for ms in times]
        table.add_row(name, *cells, str(f.tokens), str(f.chunks))
    return table


def runs_table(runs: Mapping[str, Summary], *figures: str) -> Table:
    """One row for each run, of all its requests together, with the named figures of `RUN_FIGURES`.

    Without names there are three: what the slowest wait for, what is of use, and what comes in time.

    Raises:
        ValueError: more than four figures, or one that is not there.
    """
    figures = figures or READERS_FIGURES
    if len(figures) > MOST_FIGURES or (set(figures) - set(RUN_FIGURES)):
        raise ValueError(f"a table has up to {MOST_FIGURES} of these figures: {', '.join(RUN_FIGURES)}")
    table = Table()
    table.add_column("", no_wrap=True)
    for figure in figures:
        table.add_column(figure, justify="right")
    for name, run in runs.items():
        table.add_row(name, *(_cell(run, *RUN_FIGURES[figure]) for figure in figures))
    return table


def _cell(run: Summary, field: str, digits: int) -> str:
    value = getattr(run, field)
    return "–" if value is None else f"{value:,.{digits}f}"


def chunk_sizes(recording: Recording) -> list[int]:
    """How many events each read brought."""
    return [len(chunk.events) for chunk in recording.chunks]
