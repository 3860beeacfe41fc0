"""Folders for Jupyter where the home folder cannot be written, as in a container without one."""

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

# Jupyter, IPython and matplotlib write into these; without the variables they are in the home folder.
VARIABLES = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR", "MPLCONFIGDIR")


def writable_home() -> bool:
    return os.access(os.path.expanduser("~"), os.W_OK)


@contextmanager
def folders(environment: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """Yield the variables that a process with this environment needs besides, so that Jupyter runs in it.

    They name temporary folders, which go with the context. There are none where the home folder can be
    written, and none for what the environment sets.
    """
    if writable_home():
        yield {}
        return
    with tempfile.TemporaryDirectory(prefix="labkit-") as folder:
        yield {name: os.path.join(folder, name.lower()) for name in VARIABLES if name not in environment}
