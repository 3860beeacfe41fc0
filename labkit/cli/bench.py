"""`labkit bench`: one benchmark or all of them, in tables."""

from typing import Annotated

import typer

from labkit import interfaces
from labkit.bench import BENCHMARKS
from labkit.cli import options, terminal

ALL = "all"
HELP = f"Run benchmarks and print their tables: {', '.join(BENCHMARKS)}."
EPILOG = "\n\n".join(f"{name}: {line}." for name, line in BENCHMARKS.items())


def _complete(incomplete: str) -> list[tuple[str, str]]:
    choices = {ALL: "every benchmark", **BENCHMARKS}
    return [(name, line) for name, line in choices.items() if name.startswith(incomplete)]


def command(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="One that is listed below, or all.", autocompletion=_complete),
    ] = ALL,
    engine: options.Engine = "tiny",
    quick: Annotated[bool, typer.Option("--quick", help="Rough figures within seconds.")] = False,
    json_file: options.JsonFile = None,
    names: options.Interfaces = "",
) -> None:
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from labkit.bench import suite
    from labkit.bench.rounds import BenchOptions

    terminal.check_writable(json_file)
    chosen = options.split(names) or None
    for interface in chosen or []:
        interfaces.server(interface)
    console = terminal.console()
    columns = (BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with (
        terminal.interrupt_on_terminate(),
        Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar,
    ):
        task = bar.add_task("", total=1.0)
        results = suite.run(
            list(BENCHMARKS) if name == ALL else [name],
            BenchOptions(chosen, engine, quick),
            lambda step, share: bar.update(task, description=step, completed=share),
        )
    terminal.write_json(json_file, results.to_json())
    console.print(*results.tables())
