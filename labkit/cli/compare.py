"""`labkit compare`: one prompt through every interface, in a table that grows with each run."""

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from labkit.cli import options, terminal

if TYPE_CHECKING:
    from rich.console import RenderableType


def command(
    prompt: options.Prompt = "Once upon a time",
    engine: options.Engine = "tiny",
    tokens: options.Tokens = 128,
    repeat: Annotated[int, typer.Option(min=1, help="Timed requests through each interface.")] = 5,
    json_file: options.JsonFile = None,
    names: options.Interfaces = "",
    isolation: Annotated[
        Literal["process", "thread"], typer.Option(help="Where the servers run.")
    ] = "process",
    seed: Annotated[int, typer.Option(help="The same through every interface.")] = 1,
    flush: options.Flush = "token",
) -> None:
    """Send one prompt through every interface and compare; status 1 if the texts differ."""
    from rich.live import Live

    from labkit.bench import comparison
    from labkit.bench.compare import blank, compare
    from labkit.bench.table import machine_line

    terminal.check_writable(json_file)
    result = blank()
    console = terminal.console()
    with terminal.interrupt_on_terminate(), Live(console=console, transient=True) as live:

        def progress(step: str, share: float) -> None:
            if console.is_terminal:
                live.update(_unfinished(comparison.tables(result), step, share))

        compare(
            prompt,
            engine=engine,
            tokens=tokens,
            repeat=repeat,
            names=options.split(names),
            isolation=isolation,
            seed=seed,
            flush=flush,
            comparison=result,
            progress=progress,
        )
    terminal.write_json(json_file, result.to_json())
    console.print(comparison.tables(result), machine_line(result.machine))
    console.print(comparison.verdict(result))
    if not result.same_text:
        raise typer.Exit(1)


def _unfinished(table: "RenderableType", step: str, share: float) -> "RenderableType":
    """A table that still grows, with a line of progress below it."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    line = Table.grid(padding=(0, 1))
    line.add_row(ProgressBar(total=1.0, completed=share, width=30), f"{share:4.0%}", Text(step, style="dim"))
    return Group(table, line)
