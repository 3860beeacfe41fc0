"""JupyterLab on a copy of the chapters, as `labkit lab` starts it, for tests with a browser."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support import PATIENCE_S

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
FIRST = "00_one_prompt_four_interfaces.ipynb"


@contextmanager
def jupyterlab(folder: Path) -> Iterator[str]:
    """Run `labkit lab` without a browser on `folder/notebooks`, a copy; yield the address of chapter 00."""
    shutil.copytree(NOTEBOOKS, folder / "notebooks")
    config = {"LabApp": {"expose_app_in_browser": True}}
    (folder / "jupyter_lab_config.json").write_text(json.dumps(config), encoding="utf-8")
    command = [sys.executable, "-m", "labkit", "lab", "--no-browser", "--notebooks", f"{folder}/notebooks"]
    env = {**os.environ, "JUPYTER_CONFIG_DIR": str(folder), "JUPYTERLAB_SETTINGS_DIR": str(folder)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env)
    assert process.stdout is not None
    try:
        yield next(line for line in process.stdout if "http://" in line).split()[-1]
    finally:
        process.send_signal(signal.SIGINT)
        status = process.wait(PATIENCE_S)
        process.stdout.close()
    assert status == 0
