"""Folders for Jupyter if the home folder is not writable, as in some containers."""

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
    """Yield the environment variables that Jupyter needs in addition to `environment`.

    They name temporary folders, which the context removes at its end. There are none if the home folder is
    writable, and none for a variable that the environment already has.
    """
    if writable_home():
        yield {}
        return
    with tempfile.TemporaryDirectory(prefix="labkit-") as folder:
        yield {name: os.path.join(folder, name.lower()) for name in VARIABLES if name not in environment}
