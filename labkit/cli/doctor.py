"""`labkit doctor`: which parts of the lab work here, which are missing, and how to get them.

Each check takes what it examines as an argument, so that a test can leave something out.
"""

import json
import platform
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, distributions, entry_points, requires
from pathlib import Path
from typing import Literal

import typer

from labkit.cli import terminal
from labkit.interfaces import first_line

State = Literal["ok", "missing", "absent"]

PYTHON = (3, 11)
NOTEBOOKS = {"jupyterlab", "ipykernel", "ipywidgets", "anywidget", "bqplot", "matplotlib"}
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
HERE = Path(__file__).parents[1]
WEIGHTS = HERE / "models" / "weights"
CONSTRAINTS = HERE.parent / "constraints.txt"
INSTALL = "pip install -e ."
MARKS = {"ok": "[green]✓[/]", "missing": "[red]✗[/]", "absent": "[yellow]–[/]"}


@dataclass(frozen=True)
class Check:
    """One part of the lab, what was found of it, and how to get it.

    The core needs a part that is `missing`, and runs without one that is `absent`.
    """

    name: str
    state: State
    detail: str
    remedy: str = ""


def command() -> None:
    """Show what is installed and what is missing; status 1 if the core cannot run."""
    from rich import box
    from rich.table import Table

    checks = examine()
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for heading in ("", "part", "found", "to get it"):
        table.add_column(heading, overflow="fold")
    for check in checks:
        table.add_row(MARKS[check.state], check.name, check.detail, check.remedy)
    console = terminal.console()
    console.print(table)
    if not can_run(checks):
        console.print("✗ the core cannot run yet", style="bold red")
        raise typer.Exit(1)
    console.print("✓ the core can run", style="green")


def examine() -> list[Check]:
    """All checks of this installation."""
    return [
        python(sys.version_info[:2]),
        *packages(installed(), requires("labkit") or [], pins(CONSTRAINTS)),
        *doors({group: list(entry_points(group=group)) for group in ("labkit.servers", "labkit.clients")}),
        *weights(WEIGHTS),
        *programs(shutil.which),
    ]


def can_run(checks: Sequence[Check]) -> bool:
    return all(check.state != "missing" for check in checks)


def python(version: tuple[int, ...]) -> Check:
    if version < PYTHON:
        return Check("Python", "missing", ".".join(map(str, version)), "Python 3.11 or later")
    return Check("Python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")


def installed() -> dict[str, str]:
    """The version of every installed package."""
    return {_normal(package.name): package.version for package in distributions() if package.name}


def pins(path: Path) -> dict[str, str]:
    """The versions in a constraints file; none if the file does not exist."""
    if not path.exists():
        return {}
    pairs = (
        line.split("#")[0].split(";")[0].partition("==")
        for line in path.read_text(encoding="utf-8").splitlines()
    )
    return {_normal(name): version.strip() for name, _, version in pairs if version}


def packages(
    present: Mapping[str, str], requirements: Sequence[str], pinned: Mapping[str, str]
) -> list[Check]:
    """Check each package that labkit requires; a check names a version that is not the tested one."""
    checks: list[Check] = []
    for requirement in requirements:
        specifier, _, marker = requirement.partition(";")
        if "extra" in marker or ("win32" in marker and sys.platform == "win32"):
            continue
        name = _normal(re.split(r"[\s\[<>=!~(]", specifier.strip())[0])
        checks.append(_package(name, present.get(name), pinned.get(name)))
    return checks


def _package(name: str, version: str | None, pinned: str | None) -> Check:
    if version is None:
        state: State = "absent" if name in NOTEBOOKS else "missing"
        return Check(name, state, "not installed", f"pip install {name}=={pinned}" if pinned else INSTALL)
    # A local part such as "+cpu" names the build, not the version.
    if pinned and version.partition("+")[0] != pinned.partition("+")[0]:
        return Check(name, "ok", f"{version}, tested with {pinned}")
    return Check(name, "ok", version)


def doors(points: Mapping[str, Sequence[EntryPoint]]) -> list[Check]:
    """Whether the servers and clients of the entry points can be imported."""
    checks: list[Check] = []
    for group, entries in points.items():
        kind = group.rpartition(".")[2]
        broken = {point.name: error for point in entries if (error := _import_error(point))}
        working = [point.name for point in entries if point.name not in broken]
        if working:
            checks.append(Check(kind, "ok", ", ".join(sorted(working))))
        else:
            checks.append(Check(kind, "missing", "none", INSTALL))
        checks += [Check(f"{kind}: {name}", "missing", error, INSTALL) for name, error in broken.items()]
    return checks


def _import_error(point: EntryPoint) -> str:
    try:
        point.load()
    except Exception as error:  # a package may raise anything
        return f"{type(error).__name__}: {first_line(error)}"
    return ""


def weights(folder: Path) -> list[Check]:
    """Whether the shipped model is there and, by its file's header, complete."""
    remedy = "make train, or git checkout -- labkit/models/weights"
    text, tokenizer = folder / "text.safetensors", folder / "tokenizer.json"
    lacking = [path.name for path in (text, tokenizer) if not path.exists()]
    if lacking:
        return [Check("weights", "missing", f"without {' and '.join(lacking)}", remedy)]
    try:
        parameters = _parameters(text)
    except (ValueError, KeyError, TypeError):
        return [Check("weights", "missing", "damaged", remedy)]
    size = text.stat().st_size / 1e6
    return [Check("weights", "ok", f"text, {parameters / 1e6:.2f} million parameters, {size:.1f} MB")]


def _parameters(path: Path) -> int:
    """How many numbers a safetensors file holds.

    Its first eight bytes give the length of a JSON header, which gives each tensor's shape and place.

    Raises:
        ValueError: the file has no such header, or ends too early.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 0 < length < path.stat().st_size:
            raise ValueError("no header")
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    total, end = 0, 0
    for tensor in header.values():
        count = 1
        for extent in tensor["shape"]:
            count *= extent
        total += count
        end = max(end, tensor["data_offsets"][1])
    if path.stat().st_size != 8 + length + end:
        raise ValueError("cut short")
    return total


def programs(which: Callable[[str], str | None]) -> list[Check]:
    """Programs beside Python. The core needs none of them."""
    browser = next(filter(which, BROWSERS), None)
    return [
        _program("browser", browser, "no Chromium; only tests in a browser need it", "apt install chromium"),
        _program("node", which("node"), "only the JavaScript client's tests need it", "apt install nodejs"),
    ]


def _program(name: str, path: str | None, without: str, remedy: str) -> Check:
    return Check(name, "ok", Path(path).name) if path else Check(name, "absent", without, remedy)


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
