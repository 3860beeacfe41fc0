"""A peer's process as the benchmark sees it (`labkit/bench/peer_child.py` is what runs in it)."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from labkit.child import Child

HERE = Path(__file__).parent
PATIENCE_S = 300.0
# one thread, whichever library computes
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


@dataclass(frozen=True)
class Generation:
    """The new tokens of each prompt, and the CPU seconds from the first of them to the last.

    `floors` are the fields of `labkit.bench.bounds.Floors`, which labkit's own process measures.
    """

    seconds: float
    tokens: list[list[int]]
    floors: dict[str, Any] | None = None


class PeerProcess:
    """Runs one of the `peer_….py` files in `python`; ends with the `with` block, or with this process.

    Raises:
        StartError: `python` does not start.
    """

    def __init__(self, name: str, file: str, python: str = sys.executable) -> None:
        order = {"file": str(HERE / file)}
        self._child = Child(
            name, HERE / "peer_child.py", order, python=python, environment=ENVIRONMENT, silent=True
        )

    def ready(self) -> dict[str, str]:
        """Wait until it is ready; return the versions of its packages.

        Raises:
            StartError: it broke or ended instead.
        """
        versions: dict[str, str] = self._child.ready(PATIENCE_S)
        return versions

    def ask(self, folder: Path, prompts: Sequence[Sequence[int]], tokens: int) -> Generation:
        """Let it generate. It first loads a model other than the last; that time does not count.

        Raises:
            StartError: it broke or ended instead.
        """
        order = {"folder": str(folder), "prompts": prompts, "tokens": tokens}
        return Generation(**self._child.call(order, PATIENCE_S))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._child.close()
