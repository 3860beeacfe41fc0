"""The command line: `labkit serve | stream | compare | bench | doctor | lab`.

What a command needs is imported when it runs, so that `labkit --help` is there at once.
"""

import json
import os
import sys
from enum import StrEnum
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from labkit import __version__, interfaces
from labkit.engine import ENGINES
from labkit.errors import LabkitError, StartError

INTERRUPTED = 130
PIPE_CLOSED = 141


class Group(TyperGroup):
    """Ends every command alike: an error of labkit's is one line and status 2, an interrupt is silent."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except LabkitError as error:
            print(f"labkit: {error}", file=sys.stderr)
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            # What is still buffered would be written to the closed pipe at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(PIPE_CLOSED) from None


app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="A lab for the way a model's answer takes to its reader.",
    epilog=f"Interfaces: {', '.join(interfaces.names())}. Engines: {', '.join(ENGINES)}.",
)


def main() -> None:
    # gRPC's core writes log lines of its own about what labkit reports as an error.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    # A character that the terminal cannot show becomes a question mark, where Python would raise.
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    app(prog_name="labkit")


class Isolation(StrEnum):
    process = "process"
    thread = "thread"


class Benchmark(StrEnum):
    all = "all"
    transport = "transport"
    memory = "memory"
    ruler = "ruler"
    engine = "engine"
    simulator = "simulator"


def _interface_names(incomplete: str) -> list[str]:
    return [name for name in interfaces.names() if name.startswith(incomplete)]


def _engine_names(incomplete: str) -> list[str]:
    return [name for name in ENGINES if name.startswith(incomplete)]


Name = Annotated[
    str, typer.Argument(help="The interface; `labkit --help` lists them.", autocompletion=_interface_names)
]
EngineText = Annotated[
    str,
    typer.Option(
        "--engine",
        help="NAME or NAME:OPTION=VALUE,… such as scripted:tokens=64.",
        autocompletion=_engine_names,
    ),
]
Flush = Annotated[
    str, typer.Option(help="When tokens are written out: token, tokens:N (by N) or ms:T (every T ms).")
]
JsonFile = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="Write figures, machine and parameters here.")
]
Names = Annotated[str, typer.Option("--interfaces", metavar="A,B", help="Only these; all by default.")]
Tokens = Annotated[int, typer.Option("--tokens", min=1, help="Tokens in the answer, at most.")]


def _version(wanted: bool) -> None:
    if wanted:
        print(f"labkit {__version__}")
        raise typer.Exit


@app.callback()
def labkit(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    pass


@app.command()
def serve(
    name: Name,
    port: Annotated[int, typer.Option(min=0, max=65_535, help="0 takes any free one.")] = 8000,
    host: Annotated[str, typer.Option(help="Other machines can reach 0.0.0.0.")] = "127.0.0.1",
    engine: EngineText = "tiny",
    flush: Flush = "token",
) -> None:
    """Serve an engine through one interface until Ctrl-C."""
    import labkit
    from labkit.cli import terminal

    server = labkit.serve(name, engine, host=host, port=port, flush=flush)
    print(f"{name} at {server.url}, engine {engine}, flush {flush}")
    print(f"\n  {terminal.example(name, server.url)}\n", flush=True)
    terminal.until_signal(server)


@app.command()
def stream(
    name: Name,
    prompt: Annotated[str, typer.Argument(help="What the model is to go on from.")],
    url: Annotated[str | None, typer.Option(help="A server that runs; without it one is started.")] = None,
    engine: EngineText = "tiny",
    tokens: Tokens = 128,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.8,
    top_k: Annotated[int, typer.Option("--top-k", help="Of the k likeliest; 0 is off.")] = 0,
    top_p: Annotated[float, typer.Option("--top-p", help="Of the likeliest with sum p; 1 is off.")] = 1.0,
    seed: Annotated[int, typer.Option(help="The same seed gives the same text.")] = 0,
    stop: Annotated[list[str] | None, typer.Option(help="End before this text; may be repeated.")] = None,
    flush: Flush = "token",
) -> None:
    """Print an answer as it comes, then its figures on stderr."""
    import labkit
    from labkit.cli import terminal
    from labkit.events import GenerateRequest

    interfaces.client(name)
    request = GenerateRequest.parse(
        {"prompt": prompt, "max_tokens": tokens, "seed": seed, "stop": stop or []}
        | {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    )
    with terminal.interrupt_on_terminate():
        if url is not None:
            recording = terminal.stream_to_stdout(name, url, request)
        else:
            with labkit.serve(name, engine, flush=flush) as server:
                recording = terminal.stream_to_stdout(name, server.url, request)
    _console(stderr=True).print(terminal.summary(recording), style="dim", highlight=False)


@app.command()
def compare(
    prompt: Annotated[str, typer.Argument(help="What the model is to go on from.")] = "Once upon a time",
    engine: EngineText = "tiny",
    tokens: Tokens = 128,
    repeat: Annotated[int, typer.Option(min=1, help="Timed requests through each interface.")] = 5,
    json_file: JsonFile = None,
    names: Names = "",
    isolation: Annotated[Isolation, typer.Option(help="Where the servers run.")] = Isolation.process,
    seed: Annotated[int, typer.Option(help="The same through every interface.")] = 0,
    flush: Flush = "token",
) -> None:
    """Send one prompt through every interface and compare; status 1 if the texts differ."""
    from rich.live import Live

    from labkit.bench import compare as measuring
    from labkit.cli import report, terminal

    _writable(json_file)
    result = measuring.blank()
    console = _console()
    with terminal.interrupt_on_terminate(), Live(console=console, transient=True) as live:

        def progress(what: str, done: float) -> None:
            if console.is_terminal:
                live.update(report.watched(report.comparison_table(result), what, done))

        measuring.compare(
            prompt,
            engine=engine,
            tokens=tokens,
            repeat=repeat,
            names=_split(names),
            isolation=isolation.value,
            seed=seed,
            flush=flush,
            comparison=result,
            progress=progress,
        )
    _write(json_file, result.to_json())
    console.print(report.comparison_table(result), report.machine_line(result.machine))
    console.print(report.verdict(result))
    if not result.same_text:
        raise typer.Exit(1)


@app.command()
def bench(
    what: Annotated[Benchmark, typer.Argument()] = Benchmark.all,
    engine: EngineText = "tiny",
    quick: Annotated[bool, typer.Option("--quick", help="Rough figures in a few seconds.")] = False,
    json_file: JsonFile = None,
    names: Names = "",
) -> None:
    """Measure what a token costs (transport), a stream weighs (memory), how true figures are (ruler), how
    fast the engine is beside others (engine) and how well it is foretold (simulator)."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from labkit.bench import suite
    from labkit.cli import report, terminal

    _writable(json_file)
    chosen = _split(names) or None
    for name in chosen or []:
        interfaces.server(name)
    console = _console()
    columns = (BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with (
        terminal.interrupt_on_terminate(),
        Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar,
    ):
        task = bar.add_task("", total=1.0)
        results = suite.run(
            [name for name in suite.NAMES if what in (Benchmark.all, name)],
            interfaces=chosen,
            engine=engine,
            quick=quick,
            progress=lambda words, done: bar.update(task, description=words, completed=done),
        )
    _write(json_file, results.to_json())
    console.print(*report.results(results))


@app.command()
def doctor() -> None:
    """Show what is installed and what is missing; status 1 if the core cannot run."""
    from labkit.cli import doctor as examining
    from labkit.cli import report

    checks = examining.examine()
    console = _console()
    console.print(report.doctor_table(checks))
    if not examining.can_run(checks):
        console.print("✗ the core cannot run yet", style="bold red")
        raise typer.Exit(1)
    console.print("✓ the core can run", style="green")


@app.command()
def lab(
    port: Annotated[int, typer.Option(min=1, max=65_535, help="This one or the next free one.")] = 8888,
    browser: Annotated[bool, typer.Option(help="Open a browser if there is a screen.")] = True,
    notebooks: Annotated[Path | None, typer.Option(help="A folder of chapters other than labkit's.")] = None,
) -> None:
    """Open JupyterLab on the first chapter, on 127.0.0.1."""
    from labkit.cli import lab as opening

    folder = notebooks or opening.notebooks()
    raise typer.Exit(opening.run(folder, port, browser, lambda line: print(line, flush=True)))


def _split(names: str) -> list[str]:
    return [part.strip() for part in names.split(",") if part.strip()]


def _console(stderr: bool = False) -> Any:
    from rich.console import Console

    return Console(stderr=stderr)


def _writable(path: Path | None) -> None:
    """Say so before minutes of measuring, not after."""
    if path is not None and not path.absolute().parent.is_dir():
        raise StartError(f"cannot write {path}: there is no such folder")


def _write(path: Path | None, value: dict[str, Any]) -> None:
    if path is None:
        return
    try:
        path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise StartError(f"cannot write {path}: {error.strerror}") from None
