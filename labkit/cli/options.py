"""The arguments and options that several commands have, with their help and completion."""

from pathlib import Path
from typing import Annotated

import typer

from labkit import interfaces
from labkit.engine import ENGINES


def _interface_names(incomplete: str) -> list[str]:
    return [name for name in interfaces.installed() if name.startswith(incomplete)]


def _engine_names(incomplete: str) -> list[str]:
    return [name for name in ENGINES if name.startswith(incomplete)]


def split(names: str) -> list[str]:
    """The names in `A,B`."""
    return [part.strip() for part in names.split(",") if part.strip()]


Interface = Annotated[
    str, typer.Argument(help="The interface; `labkit --help` lists them.", autocompletion=_interface_names)
]
Interfaces = Annotated[str, typer.Option("--interfaces", metavar="A,B", help="Only these; all by default.")]
Engine = Annotated[
    str,
    typer.Option(
        "--engine",
        help="NAME or NAME:OPTION=VALUE,… such as scripted:tokens=64.",
        autocompletion=_engine_names,
    ),
]
Flush = Annotated[
    str,
    typer.Option(help="When the server writes tokens: token, tokens:N (N at a time) or ms:T (every T ms)."),
]
Prompt = Annotated[str, typer.Argument(help="The text that the model continues.")]
Tokens = Annotated[int, typer.Option("--tokens", min=1, help="Tokens in the answer, at most.")]
JsonFile = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="Write figures, machine and parameters here.")
]
