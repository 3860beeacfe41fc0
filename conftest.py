"""The tests and the chapters run where the home folder cannot be written, and as a job in the background."""

import os
import signal
from contextlib import ExitStack

import pytest

from labkit.cli.home import folders


def pytest_configure(config: pytest.Config) -> None:
    """Prepare what the tests' processes and kernels inherit: folders in place of a home, and interrupts.

    A script starts a background job with interrupts ignored, and all processes of the job inherit that.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    stack = ExitStack()
    config.add_cleanup(stack.close)
    os.environ.update(stack.enter_context(folders(os.environ)))
