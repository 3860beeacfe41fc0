"""Runs notebooks from top to bottom and saves them with outputs and execution counts, and nothing volatile.

python scripts/run_notebooks.py [NOTEBOOK ...]     all of notebooks/ by default
"""

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"


def run(path: Path) -> None:
    """Execute one notebook in place.

    Raises:
        CellExecutionError: a cell failed; the notebook is left as it was.
    """
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook, timeout=120, store_widget_state=False, resources={"metadata": {"path": path.parent}}
    ).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        for output in cell.get("outputs", []):
            # A view of a kernel that is gone shows as an error; its text and the picture after it remain.
            output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)
    notebook.metadata = {key: notebook.metadata[key] for key in ("kernelspec",)} | {
        "language_info": {"name": "python"}
    }
    nbformat.write(notebook, path)


if __name__ == "__main__":
    for path in [Path(name) for name in sys.argv[1:]] or sorted(NOTEBOOKS.glob("*.ipynb")):
        print(path.name, flush=True)
        run(path)
