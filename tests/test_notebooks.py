"""The chapters as files: enough of each is compared, they read without a kernel, exercises can be solved.

nbval itself runs the chapters and compares their outputs (`make test`).
"""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from ipykernel.ipkernel import IPythonKernel
from jupyter_client.kernelspec import get_kernel_spec

from labkit import Server

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
CHAPTERS = sorted(NOTEBOOKS.glob("*.ipynb"))
MEASURED = "nbval-ignore-output"

every_chapter = pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)


def cells(path: Path) -> list[Any]:
    notebook: Any = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    return list(notebook.cells)


def code(path: Path) -> list[Any]:
    return [cell for cell in cells(path) if cell.cell_type == "code"]


def prose(path: Path) -> str:
    return "\n\n".join(cell.source for cell in cells(path) if cell.cell_type == "markdown")


@every_chapter
def test_every_cell_was_run_in_order(path: Path) -> None:
    """nbval does not compare a cell that has no execution count."""
    assert [cell.execution_count for cell in code(path)] == list(range(1, len(code(path)) + 1))


@every_chapter
def test_enough_is_compared_and_nothing_is_skipped(path: Path) -> None:
    tags = [set(cell.metadata.get("tags", [])) for cell in code(path)]
    strict = [cell for cell, its in zip(code(path), tags, strict=True) if cell.outputs and not its]
    assert len(strict) >= 3
    assert set().union(*tags) <= {MEASURED}


@every_chapter
def test_what_is_measured_is_asserted(path: Path) -> None:
    """nbval ignores outputs that hold figures, so a finding on those figures must follow."""
    sources = [cell.source for cell in code(path)]
    measured = [i for i, cell in enumerate(code(path)) if MEASURED in cell.metadata.get("tags", [])]
    assert measured
    assert any("finding(" in source for source in sources[measured[0] :])


@every_chapter
def test_a_chapter_has_its_parts(path: Path) -> None:
    text = prose(path)
    for part in (
        "**The question.**",
        "**Takes**",
        "## Predict",
        "## Watch",
        "**What you found.**",
        "## Exercise",
    ):
        assert part in text, f"{path.name} has no {part}"


@every_chapter
def test_it_reads_without_a_kernel(path: Path) -> None:
    outputs = [output for cell in code(path) for output in cell.outputs]
    kinds = {kind for output in outputs for kind in output.get("data", {})}
    assert "image/png" in kinds
    assert "application/vnd.jupyter.widget-view+json" not in kinds
    assert "error" not in {output.output_type for output in outputs}


@every_chapter
def test_it_is_saved_as_jupyterlab_saves_it(path: Path) -> None:
    """Otherwise JupyterLab marks a chapter as changed when it opens it (`tests/test_browser_saving.py`)."""
    text = path.read_text(encoding="utf-8")
    notebook: Any = nbformat.reads(text, as_version=4)  # type: ignore[no-untyped-call]
    assert text == nbformat.writes(notebook) + "\n"  # type: ignore[no-untyped-call]
    spec = get_kernel_spec("python3")
    kernel = {"name": "python3", "display_name": spec.display_name, "language": spec.language}
    assert notebook.metadata.kernelspec == kernel
    described = notebook.metadata.language_info
    assert {**IPythonKernel.language_info, "version": described.version} == described


@every_chapter
def test_the_first_cell_sees_to_it_that_mishaps_are_one_line(path: Path) -> None:
    """`labkit.lesson` does when it is imported."""
    assert re.search(r"^(from|import) labkit\.lesson\b", code(path)[0].source, re.MULTILINE)


@every_chapter
def test_functions_in_a_chapter_are_short(path: Path) -> None:
    tree = ast.parse("\n".join(cell.source for cell in code(path)))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert [f.name for f in functions if (f.end_lineno or 0) - f.lineno >= 10] == []


@every_chapter
def test_links_lead_somewhere(path: Path) -> None:
    links = re.findall(r"\]\(([^)]+)\)", prose(path))
    assert [link for link in links if not (NOTEBOOKS / link).exists()] == []


WORDS = 'lambda ms: {r: "".join(m.get("text", "") for m in ms if m["request_id"] == r) for r in ("x", "y")}'
# For each exercise: its variable, a right answer, wrong answers (a wrong type, nothing, the placeholder),
# and the cells that it needs, each by a text in it. What cells import, each exercise has.
EXERCISES = {
    "00": (
        "my_n",
        "6",
        ["3", "7", "6.0", '"tokens:6"'],
        ["scripted = ", "def first_token_ms"],
    ),
    "01": (
        "my_bytes",
        "4096",
        ["1024", "4096.0", '"4096"', "0"],
        ["from labkit.lesson", "pool = KVPool(model.config, slots=1)\nlogits"],
    ),
    "03": ("my_max_tokens", "40", ["41", "39.5", '"40"', "0"], []),
    "06": (
        "my_bytes",
        r'b"data: a\r\n\r\ndata: b\r\n\r\n"',
        [r'b"data: a\n\ndata: b\n\n"', 'b""', '"data: a"'],
        ["sse = labkit.serve", "def parsed", "def naive"],
    ),
    "09": (
        "my_function",
        WORDS,
        ['lambda ms: {"x": "", "y": ""}', "lambda ms: {}", "lambda ms: ms[0]['text']"],
        ["socket = Messages", "def answers_to"],
    ),
    "12": (
        "my_bytes",
        r'b"\x0a\x08\x08\x05\x1a\x04\x0a\x02ok"',
        ["bytes([10, 2, 8, 5])", 'b""', '"ok"'],
        [],
    ),
    "22": ("my_budget", "64", ["16", "512", '"64"', "0"], ["def outcome"]),
    "23": (
        "my_policy",
        "Andes(interval_s=0.1, preemptions=10**9)",
        ["Andes()", "TokenFlow(margin_s=0, hold_s=0)", '"andes"', "None"],
        ["site = Site()", "rows = {", "flow, plain", "def outcome"],
    ),
}


@every_chapter
def test_the_exercise_can_be_solved_and_knows_a_wrong_answer(path: Path) -> None:
    variable, right, wrong, needed = EXERCISES[path.stem[:2]]
    sources = [cell.source for cell in code(path)]
    exercise = next(source for source in sources if f"{variable} = ..." in source)
    scope: dict[str, Any] = {}
    try:
        for source in sources[: sources.index(exercise)]:
            exec(source if any(part in source for part in needed) else imports(source), scope)
        verdicts = [verdict(exercise, variable, answer, scope) for answer in ("...", right, *wrong)]
    finally:
        for server in [value for value in scope.values() if isinstance(value, Server)]:
            server.stop()
    unanswered = "Put your answer in place of ... and run the cell again."
    assert verdicts == [unanswered, "Solved.", *["Not yet"] * len(wrong)]


def imports(source: str) -> str:
    """A cell's import statements alone."""
    flags = ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    statements = compile(source, "cell", "exec", flags).body
    return "\n".join(
        ast.unparse(each) for each in statements if isinstance(each, ast.Import | ast.ImportFrom)
    )


def verdict(exercise: str, variable: str, answer: str, scope: dict[str, Any]) -> str:
    """The last line of what the exercise answers, up to its colon."""
    *statements, last = ast.parse(exercise.replace(f"{variable} = ...", f"{variable} = {answer}", 1)).body
    exec(compile(ast.Module(statements, []), "exercise", "exec"), scope)
    assert isinstance(last, ast.Expr)
    text = repr(eval(compile(ast.Expression(last.value), "exercise", "eval"), scope))
    return text.splitlines()[-1].partition(":")[0]


DROP_A_TOKEN = """
from labkit.stream import Stream
put = Stream.put
def lossy(self, piece):
    if piece.id != 9:
        return put(self, piece)
    self.produced += 1
    self.next_id += 1
Stream.put = lossy
"""


def nbval(path: Path, **env: str) -> str:
    """What pytest prints when nbval runs this notebook."""
    options = ["--nbval", "--nbval-cell-timeout", "600", "-q", "-rsfx", "-p", "no:cacheprovider"]
    result = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(path)],
        capture_output=True,
        text=True,
        env={**os.environ, **env},
        cwd=path.parent,
    )
    return result.stdout


def test_a_lost_token_fails_a_chapter(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(DROP_A_TOKEN, encoding="utf-8")
    path = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))
    printed = nbval(NOTEBOOKS / "06_sse.ipynb", PYTHONPATH=path)
    assert "not in this run: not one event was lost or merged on the way" in printed


def test_another_seed_fails_a_chapter(tmp_path: Path) -> None:
    path = tmp_path / "changed.ipynb"
    source = (NOTEBOOKS / "03_rest.ipynb").read_text(encoding="utf-8")
    assert '\\"seed\\": 3' in source
    path.write_text(source.replace('\\"seed\\": 3', '\\"seed\\": 4'), encoding="utf-8")
    assert " failed" in nbval(path)


# Cells, each with the output that is saved in the notebook.
OTHERS_USE = """from labkit.figures.quiet import Neighbours
from labkit.lesson import finding
Neighbours.share = lambda self: {share}"""
HELD = [
    (OTHERS_USE.format(share=0.4), ""),
    ("finding('sooner (by far)', True, ms=3)", "✓ sooner (by far)"),
    ("finding('sooner (by far)', False, ms=3)", "✓ sooner (by far)"),  # cell 2: inconclusive
    ("finding('no id is missing', False)", "✓ no id is missing"),  # cell 3: fails
    (OTHERS_USE.format(share=0.05), ""),
    ("finding('sooner (by far)', False, ms=3)", "✓ sooner (by far)"),  # cell 5: fails
    ("from ipywidgets import IntText\nbox = IntText()\nfor n in range(1, 1200): box.value = n", ""),
    (
        """import time
kernel = get_ipython().kernel
publish = kernel._publish_status
def late(status, *given, **named):
    time.sleep(3 * (status == "idle"))
    publish(status, *given, **named)
kernel._publish_status = late""",
        "",
    ),
]


def test_nbval_holds_chapters_to_their_findings_and_live_cells_to_their_ends(tmp_path: Path) -> None:
    path = tmp_path / "held.ipynb"
    cells = [saved_cell(source, output) for source, output in HELD]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)  # type: ignore[no-untyped-call]
    shutil.copy(NOTEBOOKS / "conftest.py", tmp_path)
    printed = nbval(path)
    missed = "inconclusive: sooner (by far) — ms 3, others used 40% of the cores"
    assert re.findall(r"SKIPPED.* held, (Cell \d: .*)", printed) == [f"Cell 2: {missed}"]
    assert re.findall(r"^FAILED .*::Cell (\d)", printed, re.MULTILINE) == ["3", "5", "6", "7"]
    assert re.search(r"AssertionError.*not in this run: no id is missing", printed)
    assert re.search(r"AssertionError.*not in this run: sooner \(by far\) — ms 3", printed)
    assert re.search(r"the cell published 1,2\d\d messages", printed)
    assert re.search(r"after the cell's reply came 3\.\d s of silence", printed)


def saved_cell(source: str, output: str) -> Any:
    outputs = [nbformat.v4.new_output("stream", text=f"{output}\n")] if output else []  # type: ignore[no-untyped-call]
    return nbformat.v4.new_code_cell(source, outputs=outputs, execution_count=1)  # type: ignore[no-untyped-call]
