"""`labkit stream`: an answer printed as it arrives, then its figures."""

import sys
from collections.abc import Callable
from typing import Annotated

import typer

import labkit
from labkit import interfaces
from labkit.background import LoopThread
from labkit.cli import options, terminal
from labkit.client import Chunk, Recording
from labkit.errors import InvalidRequest, from_code
from labkit.events import UNCOUNTED, Failed, Finished, GenerateRequest, Token
from labkit.figures.metrics import figures

Write = Callable[[Recording, Chunk], None]


def command(
    name: options.Interface,
    prompt: options.Prompt,
    url: Annotated[str | None, typer.Option(help="A running server; without it one starts here.")] = None,
    engine: options.Engine = "tiny",
    tokens: options.Tokens = 128,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.8,
    top_k: Annotated[int, typer.Option("--top-k", help="Only the k likeliest tokens; 0 is off.")] = 0,
    top_p: Annotated[
        float, typer.Option("--top-p", help="Only the likeliest tokens whose sum is p; 1 is off.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(help="The same seed gives the same text.")] = 0,
    stop: Annotated[list[str] | None, typer.Option(help="End before this text; may be repeated.")] = None,
    flush: options.Flush = "token",
    echo: Annotated[
        bool | None,
        typer.Option("--echo/--no-echo", help="Print the prompt too; by default on a terminal."),
    ] = None,
) -> None:
    """Print an answer as it arrives, then its figures on stderr."""
    interfaces.client(name)
    request = GenerateRequest.parse(
        {"prompt": prompt, "max_tokens": tokens, "seed": seed, "stop": stop or []}
        | {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    )
    with terminal.interrupt_on_terminate():
        write = _writer(prompt if (sys.stdout.isatty() if echo is None else echo) else "")
        if url is not None:
            recording = _to_stdout(name, url, request, write)
        else:
            with labkit.serve(name, engine, flush=flush) as server:
                recording = _to_stdout(name, server.url, request, write)
    terminal.console(stderr=True).print(summary(recording), style="dim", highlight=False)


def _writer(prompt: str) -> Write:
    """Return what prints a chunk's text, and before the first one the prompt, which the text continues."""
    from rich.text import Text

    def write(recording: Recording, chunk: Chunk) -> None:
        if prompt and not recording.chunks:
            terminal.console().print(Text(prompt, "dim"), end="", soft_wrap=True, highlight=False)
        sys.stdout.write("".join(event.text for event in chunk.events if isinstance(event, Token)))
        sys.stdout.flush()

    return write


def _to_stdout(name: str, url: str, request: GenerateRequest, write: Write) -> Recording:
    """Print each token as it arrives; an interrupt stops the generation.

    Raises:
        LabkitError: the server refused, or the stream broke off or failed after what is printed.
    """
    if "://" not in url:
        raise InvalidRequest(f"{url}: a URL has a scheme, as in http://127.0.0.1:8000")
    loop = LoopThread("labkit-stream")
    try:
        return loop.run(_print(name, url, request, write))
    finally:
        loop.close()


async def _print(name: str, url: str, request: GenerateRequest, write: Write) -> Recording:
    async with interfaces.client(name)(url) as client:
        recording = await client.record(request, write)
    sys.stdout.write("\n")
    sys.stdout.flush()
    if isinstance(end := recording.end, Failed):
        raise from_code(end.code, end.message)
    return recording


def summary(recording: Recording) -> str:
    """One line on a finished stream: TTFT, tokens, tokens per second, the reason of its end.

    Where a piece is a chunk of several tokens, it tells their number, and that of the tokens if it is known.
    """
    f = figures(recording)
    end = recording.end
    reason = "" if end is None or isinstance(end, Failed) else end.reason
    ttft = "no token" if f.ttft_ms is None else f"TTFT {f.ttft_ms:,.1f} ms"
    if isinstance(end, Finished) and end.tokens:
        counted = "" if end.tokens == UNCOUNTED else f"{end.tokens} tokens in "
        return f"{ttft}, {counted}{f.tokens} chunks, {reason}"
    rate = f", {1000 / f.tpot_ms:,.1f} tokens/s" if f.tpot_ms else ""
    return f"{ttft}, {f.tokens} tokens{rate}, {reason}"
