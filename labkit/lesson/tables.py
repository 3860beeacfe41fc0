"""Tables of a chapter: the figures of recordings and of runs."""

from collections.abc import Mapping

from rich.table import Table

from labkit.client import Recording
from labkit.figures.metrics import figures
from labkit.sim.timelines import Summary

RUN_HEADINGS = ["tok/s", "effective", "TTFT p50", "p99", "ITL p99", "fluidity", "QoE", "stall", "preempted"]


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


def runs_table(runs: Mapping[str, Summary]) -> Table:
    """One row for each run: its figures, as `labkit.sim.timelines.Summary` defines them."""
    table = Table(title="of all requests together; TTFT and stalls in s, ITL in ms")
    table.add_column("", no_wrap=True)
    for heading in RUN_HEADINGS:
        table.add_column(heading, justify="right")
    for name, run in runs.items():
        rates = (run.tokens_per_s, run.effective_tokens_per_s)
        cells = [f"{x:,.0f}" if x is not None else "–" for x in rates]
        waits = (run.ttft_p50_s, run.ttft_p99_s, run.itl_p99_ms, run.fluidity, run.qoe, run.stall_s)
        for value, digits in zip(waits, (2, 2, 0, 3, 3, 2), strict=True):
            cells.append("–" if value is None else f"{value:,.{digits}f}")
        table.add_row(name, *cells, f"{run.preemptions:,}")
    return table


def chunk_sizes(recording: Recording) -> list[int]:
    """How many events each read brought."""
    return [len(chunk.events) for chunk in recording.chunks]
