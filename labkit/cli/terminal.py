"""What several commands share: a console, the handling of SIGTERM, a file of figures."""

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labkit.errors import StartError

if TYPE_CHECKING:
    from rich.console import Console


def console(stderr: bool = False) -> "Console":
    from rich.console import Console

    return Console(stderr=stderr)


@contextmanager
def interrupt_on_terminate() -> Iterator[None]:
    """Let a request to terminate (SIGTERM) raise KeyboardInterrupt, as an interrupt does."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def check_writable(path: Path | None) -> None:
    """Raise StartError if the file's folder is missing. Call it before the measuring, which takes minutes."""
    if path is not None and not path.absolute().parent.is_dir():
        raise StartError(f"cannot write {path}: there is no such folder")


def write_json(path: Path | None, value: dict[str, Any]) -> None:
    """Write the figures, if there is a path.

    Raises:
        StartError: the file cannot be written.
    """
    if path is None:
        return
    try:
        path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise StartError(f"cannot write {path}: {error.strerror}") from None
