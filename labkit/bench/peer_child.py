"""What a peer's process runs: it loads models and generates tokens.

It imports nothing of labkit, since a peer may live in an environment of its own. A peer's file has
`PACKAGES`, and `load(folder)`, which returns `generate(prompts, tokens)`. That returns the fields of
`labkit.bench.peer_process.Generation`; only labkit's own peer measures the last of them, `floors`.
"""

import runpy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any


@contextmanager
def work(file: str) -> Iterator[tuple[dict[str, str], Callable[..., dict[str, Any]]]]:
    """Yield the versions of the peer's packages, and a function that generates with the last model loaded."""
    peer = runpy.run_path(file)
    load = lru_cache(maxsize=1)(peer["load"])

    def answer(folder: str, prompts: list[list[int]], tokens: int) -> dict[str, Any]:
        values = load(Path(folder))(prompts, tokens)
        return dict(zip(("seconds", "tokens", "floors"), values, strict=False))

    yield {package: version(package) for package in peer["PACKAGES"]}, answer
