"""A peer's process as the benchmark sees it: started, asked, ended."""

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from labkit.errors import StartError

HERE = Path(__file__).parent
PATIENCE_S = 300.0
END_S = 5.0
# One thread each, whichever library computes.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


@dataclass(frozen=True)
class Answer:
    """The new tokens of each prompt, and the CPU seconds from the first of them to the last.

    `floors` are the fields of `labkit.bench.bounds.Floors`, which labkit's own process measures.
    """

    seconds: float
    tokens: list[list[int]]
    floors: dict[str, Any] | None = None


class PeerProcess:
    """Runs one of the `peer_….py` files in `python`; ends with the `with` block, or with this process."""

    def __init__(self, name: str, file: str, python: str = sys.executable) -> None:
        self.name = name
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the process)
        own = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))} if python == sys.executable else {}
        try:
            # -P: this folder's files are no libraries
            self._process = subprocess.Popen(
                [python, "-P", str(HERE / "peer_loop.py"), str(HERE / file)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                text=True,
                env={**os.environ, **ENVIRONMENT, **own},
                start_new_session=True,
            )
        except OSError as error:
            self._errors.close()
            raise StartError(f"{python} does not start: {error.strerror}") from None

    def ready(self) -> dict[str, str]:
        """Wait until it can be asked; returns the versions of its packages.

        Raises:
            StartError: it ended instead.
        """
        versions: dict[str, str] = self._reply()
        return versions

    def ask(self, folder: Path, prompts: Sequence[Sequence[int]], tokens: int) -> Answer:
        """Let it generate; a model other than the last is loaded first, and not counted.

        Raises:
            StartError: it ended instead.
        """
        assert self._process.stdin is not None
        message = {"folder": str(folder), "prompts": prompts, "tokens": tokens}
        with suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
        return Answer(**self._reply())

    def _reply(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        patience = threading.Timer(PATIENCE_S, self._process.kill)
        patience.start()
        try:
            line = self._process.stdout.readline()
        finally:
            patience.cancel()
        if not line:
            raise StartError(f"{self.name} ended: {self._last_words()}")
        reply: dict[str, Any] = json.loads(line)
        return reply

    def _last_words(self) -> str:
        status = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), f"status {status}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()
