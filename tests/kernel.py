"""A real kernel, in which a test runs cells as JupyterLab does, and interrupts them."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from jupyter_client.manager import KernelManager
from jupyter_core.utils import ensure_event_loop
from support import PATIENCE_S

from labkit.lesson.findings import MODE


@dataclass
class Ran:
    """What a cell showed: the text it printed, the tracebacks, the data it displayed, and its reply."""

    printed: str = ""
    errors: list[str] = field(default_factory=list)
    data: list[dict[str, Any]] = field(default_factory=list)
    status: str = ""

    @property
    def lines(self) -> list[str]:
        return self.printed.splitlines()


class Kernel:
    """Runs cells in a kernel, one after the other."""

    def __init__(self, manager: KernelManager, client: Any) -> None:
        self._manager = manager
        self._client = client

    def run(self, cell: str, interrupt_at: str = "", after_s: float = 0.0) -> Ran:
        """Run a cell; with `interrupt_at`, interrupt it `after_s` seconds after it has printed that."""
        ran = Ran()
        timers: list[threading.Timer] = []

        def seen(message: dict[str, Any]) -> None:
            content = message["content"]
            match message["msg_type"]:
                case "stream":
                    ran.printed += content["text"]
                case "error":
                    ran.errors.append("\n".join(content["traceback"]))
                case "execute_result" | "display_data":
                    ran.data.append(content["data"])
            if interrupt_at and interrupt_at in ran.printed and not timers:
                timers.append(threading.Timer(after_s, self._interrupt))
                timers[0].start()

        reply = self._client.execute_interactive(
            cell, output_hook=seen, timeout=PATIENCE_S, stop_on_error=True
        )
        ran.status = reply["content"]["status"]
        for timer in timers:
            timer.cancel()  # ipykernel loses a request that is interrupted as it begins or ends
            timer.join()
        return ran

    def _interrupt(self) -> None:
        self._manager.interrupt_kernel()
        ensure_event_loop().close()  # which jupyter_client has made for this thread


@contextmanager
def kernel(folder: str | None = None) -> Iterator[Kernel]:
    """A kernel that runs in `folder` and that is a learner's: findings are not strict."""
    env = {name: value for name, value in os.environ.items() if name != MODE}
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(env=env, cwd=folder)
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=PATIENCE_S)
        yield Kernel(manager, client)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
        ensure_event_loop().close()
