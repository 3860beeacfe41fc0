"""The tests and the chapters run where the home folder cannot be written."""

import os
from contextlib import ExitStack

import pytest

from labkit.cli.home import folders


def pytest_configure(config: pytest.Config) -> None:
    """Give the kernels that the tests start folders of their own where there is no home for them."""
    stack = ExitStack()
    config.add_cleanup(stack.close)
    os.environ.update(stack.enter_context(folders(os.environ)))
