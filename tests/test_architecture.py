"""The code follows ARCHITECTURE.md: layers hold, importing labkit is light, the plan names every room."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_layers_hold() -> None:
    """import-linter's contracts: servers and clients apart, on labkit; torch in models and engines alone."""
    linter = Path(sys.executable).with_name("lint-imports")
    result = subprocess.run([linter], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("module", ["labkit", "labkit.engine.scripted", "servers.sse", "clients.grpc"])
def test_importing_the_core_brings_no_torch(module: str) -> None:
    code = f"import sys, {module}; print(sorted({{'torch', 'ipywidgets', 'matplotlib'}} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_every_interface_has_a_server_a_client_and_a_chapter() -> None:
    servers = PYPROJECT["project"]["entry-points"]["labkit.servers"]
    clients = PYPROJECT["project"]["entry-points"]["labkit.clients"]
    chapters = " ".join(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
    assert servers.keys() == clients.keys()
    assert [name for name in servers if f"_{name}" not in chapters] == []


def test_the_plan_names_every_module() -> None:
    plan = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    modules = [p.stem for p in (ROOT / "labkit").glob("*.py") if not p.stem.startswith("__")]
    packages = [p.parent.name for p in (ROOT / "labkit").glob("*/__init__.py")]
    assert [name for name in modules + packages if f"`{name}" not in plan] == []


def test_every_dependency_is_pinned_and_has_its_reason() -> None:
    plan = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {line.partition("==")[0].lower().replace("_", "-") for line in lines}
    project = PYPROJECT["project"]
    runtime = [requirement.partition(";")[0].strip().lower() for requirement in project["dependencies"]]
    development = [requirement.lower() for requirement in project["optional-dependencies"]["dev"]]
    assert [name for name in runtime + development if name not in pinned] == []
    assert [name for name in runtime if f"`{name}`" not in plan] == []


def test_files_open_with_their_one_job() -> None:
    files = [p for room in ("labkit", "servers", "clients", "tests") for p in (ROOT / room).rglob("*.py")]
    generated = {"inference_pb2.py"}
    silent = [
        p.name
        for p in files
        if p.name not in generated and not p.read_text(encoding="utf-8").lstrip().startswith('"""')
    ]
    assert silent == []


def test_text_files_are_read_and_written_in_a_named_encoding() -> None:
    """Without one, Python takes the locale's: not UTF-8 under Windows, or where `LC_ALL` says so."""
    rooms = ("labkit", "servers", "clients", "tests", "scripts")
    files = [path for room in rooms for path in (ROOT / room).rglob("*.py")]
    unnamed = [
        f"{path.name}:{node.lineno}"
        for path in files
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        if node.func.attr in ("read_text", "write_text")
        if "encoding" not in {keyword.arg for keyword in node.keywords}
    ]
    assert unnamed == []
