"""Runs notebooks from top to bottom and saves them as JupyterLab does, with outputs and nothing volatile.

python scripts/run_notebooks.py [NOTEBOOK ...]     all of notebooks/ by default
"""

import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client.kernelspec import get_kernel_spec
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"


def run(path: Path) -> None:
    """Execute one notebook in place.

    Raises:
        CellExecutionError: a cell failed; the notebook is left as it was.
    """
    notebook = nbformat.read(path, as_version=4)
    before = deepcopy(notebook.metadata)
    NotebookClient(
        notebook, timeout=120, store_widget_state=False, resources={"metadata": {"path": path.parent}}
    ).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        for output in cell.get("outputs", []):
            # A view of a kernel that is gone shows as an error; its text and the picture after it remain.
            output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)
    notebook.metadata = described(notebook.metadata, before)
    nbformat.write(notebook, path)


def described(metadata: Any, before: Any) -> dict[str, Any]:
    """What JupyterLab says of the kernel, except that the version of Python stays what it was before.

    JupyterLab marks a notebook as changed where its file says something else than the kernel does.
    """
    spec = get_kernel_spec(metadata["kernelspec"]["name"])
    kernelspec = {"name": metadata["kernelspec"]["name"], "display_name": spec.display_name}
    kept = {"version": version} if (version := before.get("language_info", {}).get("version")) else {}
    return {
        "kernelspec": {**kernelspec, "language": spec.language},
        "language_info": {**metadata["language_info"], **kept},
    }


if __name__ == "__main__":
    for path in [Path(name) for name in sys.argv[1:]] or sorted(NOTEBOOKS.glob("*.ipynb")):
        print(path.name, flush=True)
        run(path)
