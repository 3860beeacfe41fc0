"""`labkit serve`: an engine behind one interface until Ctrl-C."""

import logging
import signal
import sys
import threading
from types import FrameType
from typing import Annotated

import typer

import labkit
from labkit import interfaces
from labkit.background import LoopThread
from labkit.cli import options
from labkit.engine.base import Checkable, Engine
from labkit.errors import LabkitError
from labkit.launch.threaded import ThreadServer
from labkit.service.admission import MAX_STREAMS

PROMPT = "Once upon a time"


def command(
    name: options.Interface,
    port: Annotated[int, typer.Option(min=0, max=65_535, help="0 takes any free one.")] = 8000,
    host: Annotated[str, typer.Option(help="0.0.0.0 lets other machines in.")] = "127.0.0.1",
    engine: options.Engine = "tiny",
    flush: options.Flush = "token",
    max_streams: Annotated[
        int, typer.Option("--max-streams", min=1, help="Answers at once, at most; one more is refused.")
    ] = MAX_STREAMS,
) -> None:
    """Serve an engine through one interface until Ctrl-C."""
    logging.getLogger("labkit").addHandler(logging.StreamHandler())  # to stderr, one line each
    with labkit.serve(name, engine, host=host, port=port, flush=flush, max_streams=max_streams) as server:
        stop = _asked_to_stop()  # before the address is printed: who reads it may stop the server at once
        print(f"{name} at {server.url}, engine {engine}, flush {flush}")
        print(f"\n  {interfaces.client(name).example(server.url, PROMPT)}\n", flush=True)
        assert isinstance(server, ThreadServer)
        _check(server.service.engine)
        # On Windows a wait without a time-out does not notice an interrupt.
        while not stop.wait(1.0):
            pass


def _check(engine: Engine) -> None:
    """Say in one line on stderr what every request would fail with now; it may be there later."""
    if not isinstance(engine, Checkable):
        return
    thread = LoopThread("labkit-check")
    try:
        thread.run(engine.check())
    except LabkitError as error:
        print(f"labkit: {error}. Until that is mended, every request fails.", file=sys.stderr, flush=True)
    finally:
        thread.close()


def _asked_to_stop() -> threading.Event:
    """An event that the first interrupt or request to terminate sets. Further ones change nothing."""
    stop = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
    return stop
