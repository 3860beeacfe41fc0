"""The command line: `labkit serve | stream | compare | bench | doctor | lab`, a file each in this folder.

A command imports what it needs when it runs, so that `labkit --help` is instant.
"""

import os
import sys
from io import TextIOWrapper
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from labkit import __version__, interfaces
from labkit.cli import bench, compare, doctor, lab, serve, stream
from labkit.engine import ENGINES
from labkit.errors import LabkitError

INTERRUPTED = 130
PIPE_CLOSED = 141


class Commands(TyperGroup):
    """Ends all commands alike: one of labkit's errors prints one line, status 2; an interrupt prints none."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except LabkitError as error:
            print(f"labkit: {error}", file=sys.stderr)
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            # At exit Python would write what is still buffered to the closed pipe.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(PIPE_CLOSED) from None


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="A lab for how a model's answer reaches its reader.",
    epilog=f"Interfaces: {', '.join(interfaces.installed())}. Engines: {', '.join(ENGINES)}.",
)
app.command("serve")(serve.command)
app.command("stream")(stream.command)
app.command("compare")(compare.command)
app.command("bench", help=bench.HELP, epilog=bench.EPILOG)(bench.command)
app.command("doctor")(doctor.command)
app.command("lab")(lab.command)


def main() -> None:
    # A terminal that cannot show a character shows a question mark instead; by default Python raises.
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    app(prog_name="labkit")


def _version(show: bool) -> None:
    if show:
        print(f"labkit {__version__}")
        raise typer.Exit


@app.callback()
def _labkit(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    pass
