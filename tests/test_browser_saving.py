"""Every chapter in JupyterLab: to open it does not change it, and to save it leaves its bytes as they are."""

import platform
from pathlib import Path

from chromium import chromium_page, needs_chromium
from jupyterlab import FIRST, NOTEBOOKS, jupyterlab

pytestmark = needs_chromium
CHAPTERS = sorted(path.name for path in NOTEBOOKS.glob("*.ipynb"))
# Each runs in the page with the path of a chapter.
FIND = (
    "const panel = [...window.jupyterapp?.shell.widgets('main') ?? []].find(w => w.context?.path === path);"
)
HAS_KERNEL = f"(path) => {{ {FIND} return panel?.sessionContext?.session?.kernel?.status === 'idle'; }}"
# Returns the version of Python in the notebook, once JupyterLab has written what the kernel says of itself.
VERSION = f"""async (path) => {{
  {FIND}
  const kernel = panel.sessionContext.session.kernel;
  await Promise.all([kernel.info, kernel.spec]);
  await new Promise((resolve) => setTimeout(resolve, 300));
  return panel.context.model.getMetadata("language_info").version;
}}"""
IS_CHANGED = f"(path) => {{ {FIND} return panel.context.model.dirty; }}"
SAVE = f"async (path) => {{ {FIND} await panel.context.save(); }}"
CLOSE = f"async (path) => {{ {FIND} await panel.sessionContext.shutdown(); panel.dispose(); }}"


def test_to_open_and_save_a_chapter_changes_nothing(tmp_path: Path) -> None:
    """Nor if another Python has saved it, as every second one has here."""
    with jupyterlab(tmp_path) as address, chromium_page(1400, 800) as page:
        for number, chapter in enumerate(CHAPTERS):
            path = f"notebooks/{chapter}"
            file = tmp_path / path
            if number % 2:
                file.write_text(by_python("3.99.1", file.read_text(encoding="utf-8")), encoding="utf-8")
            before = file.read_bytes()
            page.goto(address.replace(FIRST, chapter))
            page.wait_for_function(HAS_KERNEL, arg=path)
            assert page.evaluate(VERSION, path) == platform.python_version()
            assert not page.evaluate(IS_CHANGED, path), f"opening changed {chapter}"
            page.evaluate(SAVE, path)
            assert file.read_bytes() == before, f"saving changed {chapter}"
            page.evaluate(CLOSE, path)


def by_python(version: str, text: str) -> str:
    """The notebook's text as another Python would have saved it."""
    begin, key, rest = text.rpartition('"version": "')
    return begin + key + version + rest[rest.index('"') :]
