"""What `labkit serve` and `labkit stream` do in a terminal."""

import shlex
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from urllib.parse import quote

from labkit import interfaces
from labkit.background import LoopThread
from labkit.client import Chunk, Recording
from labkit.errors import InvalidRequest, from_code
from labkit.events import Failed, GenerateRequest, Token
from labkit.figures.metrics import figures
from labkit.launch.server import Server

PROMPT = "Once upon a time"


def example(name: str, url: str) -> str:
    """A command that asks the server and that a person can paste: curl where it can, or labkit's client."""
    known = {
        "rest": f"""curl {url}/generate -H 'content-type: application/json' -d '{{"prompt": "{PROMPT}"}}'""",
        "sse": f"curl -N '{url}/generate?prompt={quote(PROMPT)}'",
    }
    return known.get(name) or f"labkit stream {name} {shlex.quote(PROMPT)} --url {url}"


def until_signal(server: Server) -> None:
    """Serve until an interrupt or a request to terminate, then stop; more of them change nothing."""
    asked = threading.Event()

    def ask(_signal: int, _frame: FrameType | None) -> None:
        asked.set()

    with server:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, ask)
        # Without a time-out, an interrupt on Windows would not be noticed.
        while not asked.wait(1.0):
            pass


@contextmanager
def interrupt_on_terminate() -> Iterator[None]:
    """Within, a request to terminate ends things as an interrupt does."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def stream_to_stdout(name: str, url: str, request: GenerateRequest) -> Recording:
    """Print each token as it comes; an interrupt stops the generation.

    Raises:
        LabkitError: refused, cut off, or failed in the middle; what had come is printed.
    """
    if "://" not in url:
        raise InvalidRequest(f"{url}: a URL has a scheme, as in http://127.0.0.1:8000")
    loop = LoopThread("labkit-stream")
    try:
        return loop.run(_print(name, url, request))
    finally:
        loop.close()


async def _print(name: str, url: str, request: GenerateRequest) -> Recording:
    async with interfaces.client(name)(url) as client:
        recording = await client.record(request, _write)
    sys.stdout.write("\n")
    sys.stdout.flush()
    if isinstance(end := recording.end, Failed):
        raise from_code(end.code, end.message)
    return recording


def _write(_: Recording, chunk: Chunk) -> None:
    sys.stdout.write("".join(event.text for event in chunk.events if isinstance(event, Token)))
    sys.stdout.flush()


def summary(recording: Recording) -> str:
    """One line on a stream that has ended: TTFT, tokens, their rate, the reason."""
    f = figures(recording)
    end = recording.end
    reason = "" if end is None or isinstance(end, Failed) else end.reason
    ttft = "no token" if f.ttft_ms is None else f"TTFT {f.ttft_ms:,.1f} ms"
    rate = f", {1000 / f.tpot_ms:,.1f} tokens/s" if f.tpot_ms else ""
    return f"{ttft}, {f.tokens} tokens{rate}, {reason}"
