"""`labkit lab`: JupyterLab on the first chapter; only this machine can reach it."""

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import webbrowser
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Annotated
from urllib.parse import quote

import typer

from labkit.cli import home
from labkit.errors import StartError

HOST = "127.0.0.1"
START_S = 300.0  # a busy machine takes a minute
STOP_S = 10.0


def command(
    port: Annotated[int, typer.Option(min=1, max=65_535, help="This one or the next free one.")] = 8888,
    browser: Annotated[bool, typer.Option(help="Open a browser if there is a screen.")] = True,
    folder: Annotated[
        Path | None, typer.Option("--notebooks", help="A folder of chapters other than labkit's.")
    ] = None,
) -> None:
    """Open JupyterLab on the first chapter, on 127.0.0.1."""
    raise typer.Exit(run(folder or notebooks(), port, browser, lambda line: print(line, flush=True)))


def find_chapter(folder: Path) -> Path:
    """The first chapter of the notebooks in `folder`.

    Raises:
        StartError: there is none.
    """
    chapters = sorted(folder.glob("00*.ipynb"))
    if not chapters:
        raise StartError("no notebooks/00*.ipynb beside labkit or here: run it in a clone of the repository")
    return chapters[0]


def notebooks() -> Path:
    """The folder of the chapters: beside the package in a clone, otherwise in the current folder."""
    beside = Path(__file__).parents[2] / "notebooks"
    return beside if beside.is_dir() else Path.cwd() / "notebooks"


def free_port(port: int) -> int:
    """This port, or the next free one after it.

    Raises:
        StartError: fifty ports in a row are in use.
    """
    for candidate in range(port, port + 50):
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind((HOST, candidate))
            except OSError:
                continue
            return candidate
    raise StartError(f"no free port from {port} to {port + 49}: choose another with --port")


def jupyter_command(root: Path, port: int, as_root: bool) -> list[str]:
    """The command that starts JupyterLab without a browser, news or questions."""
    options = [
        "--no-browser",
        f"--ServerApp.ip={HOST}",
        f"--ServerApp.port={port}",
        "--ServerApp.port_retries=0",
        f"--ServerApp.root_dir={root}",
        "--Application.log_level=WARN",
        "--LabApp.news_url=None",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        "--ServerApp.contents_manager_class=labkit.cli.contents.Contents",
        # The search for language servers runs npm, which hangs where the home folder is missing.
        "--LanguageServerManager.autodetect=False",
    ]
    return [sys.executable, "-m", "jupyterlab", *options, *(["--allow-root"] if as_root else [])]


def has_screen(environment: Mapping[str, str], platform: str = sys.platform) -> bool:
    """Whether a browser that opens here would be visible."""
    if platform in ("win32", "darwin"):
        return True
    return bool(environment.get("DISPLAY") or environment.get("WAYLAND_DISPLAY"))


def run(folder: Path, port: int, browser: bool, say: Callable[[str], None]) -> int:
    """Serve the chapters in `folder` until an interrupt; returns the exit status.

    Raises:
        StartError: no notebooks, no free port, or Jupyter did not start.
    """
    chapter = find_chapter(folder.resolve())
    root = chapter.parent.parent
    port = free_port(port)
    token = secrets.token_urlsafe(24)
    path = quote(chapter.relative_to(root).as_posix())
    as_root = hasattr(os, "geteuid") and os.geteuid() == 0
    with ExitStack() as stack:
        folders = stack.enter_context(home.folders(os.environ))
        # In a session of its own, Jupyter gets an interrupt from the keyboard once, through `_Ending`.
        jupyter = subprocess.Popen(
            jupyter_command(root, port, as_root),
            env={**os.environ, **folders, "JUPYTER_TOKEN": token},
            start_new_session=True,
        )
        ending = stack.enter_context(_Ending(jupyter))
        if _answers(jupyter, port, lambda: ending.requested):
            url = f"http://{HOST}:{port}/lab/tree/{path}?token={token}"
            is_open = browser and has_screen(os.environ) and _open(url)
            say(f"JupyterLab {'is open in your browser' if is_open else 'is here'}: {url}")
            say("Ctrl-C stops it.")
        elif not ending.requested:
            raise StartError("JupyterLab did not start: its messages are above")
        ending.wait()
    return 0 if ending.requested else jupyter.returncode


def _answers(jupyter: "subprocess.Popen[bytes]", port: int, stopping: Callable[[], bool]) -> bool:
    end = time.monotonic() + START_S
    while jupyter.poll() is None and time.monotonic() < end and not stopping():
        try:
            socket.create_connection((HOST, port), 1.0).close()
        except OSError:
            time.sleep(0.1)
        else:
            return True
    return False


def _open(url: str) -> bool:
    try:
        return webbrowser.open(url)
    except webbrowser.Error:
        return False


class _Ending:
    """Passes interrupts and requests to terminate on to Jupyter; its exit waits for Jupyter's end.

    `requested` says whether one of them has come.
    """

    SIGNALS = tuple(
        getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
    )

    def __init__(self, jupyter: "subprocess.Popen[bytes]") -> None:
        self.requested = False
        self._jupyter = jupyter

    def __enter__(self) -> "_Ending":
        self._before = {number: signal.signal(number, self._ask) for number in self.SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        if self._jupyter.poll() is None:
            self._jupyter.terminate()
        try:
            self._jupyter.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._jupyter.kill()
            self._jupyter.wait()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def wait(self) -> None:
        """Wait until Jupyter has ended, or a signal has come."""
        while not self.requested and self._jupyter.poll() is None:
            time.sleep(0.1)

    def _ask(self, _signal: int, _frame: FrameType | None) -> None:
        """Terminate Jupyter, because an interrupt would make it ask back; at a second request, kill it."""
        if self.requested:
            self._jupyter.kill()
        else:
            self._jupyter.terminate()
        self.requested = True
