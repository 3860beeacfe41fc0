"""Notebooks as `labkit lab` reads and saves them, without a browser."""

import json
import platform
from pathlib import Path
from typing import Any

import pytest

from labkit.cli.contents import Contents


def notebook(language: dict[str, str]) -> dict[str, Any]:
    return {"cells": [], "metadata": {"language_info": language}, "nbformat": 4, "nbformat_minor": 5}


def model(language: dict[str, str]) -> dict[str, Any]:
    return {"type": "notebook", "format": "json", "content": notebook(language)}


async def read(contents: Contents, name: str) -> dict[str, Any]:
    language: dict[str, Any] = (await contents.get(name))["content"]["metadata"]["language_info"]
    return language


def stored(folder: Path, name: str) -> dict[str, Any]:
    language: dict[str, Any] = json.loads((folder / name).read_text(encoding="utf-8"))["metadata"][
        "language_info"
    ]
    return language


async def test_a_notebook_keeps_the_version_in_its_file_and_shows_the_one_that_runs(tmp_path: Path) -> None:
    (tmp_path / "a.ipynb").write_text(
        json.dumps(notebook({"name": "python", "version": "3.99.1"})), encoding="utf-8"
    )
    contents = Contents(root_dir=str(tmp_path))
    shown = await read(contents, "a.ipynb")
    assert shown == {"name": "python", "version": platform.python_version()}
    await contents.save(model(shown), "a.ipynb")
    assert stored(tmp_path, "a.ipynb")["version"] == "3.99.1"


async def test_a_new_notebook_gets_the_version_that_made_it(tmp_path: Path) -> None:
    await Contents(root_dir=str(tmp_path)).save(model({"name": "python", "version": "3.12.1"}), "new.ipynb")
    assert stored(tmp_path, "new.ipynb")["version"] == "3.12.1"


@pytest.mark.parametrize("language", [{"name": "python"}, {"name": "julia", "version": "1.11"}, {}])
async def test_what_tells_no_version_of_python_stays_as_it_is(
    tmp_path: Path, language: dict[str, str]
) -> None:
    contents = Contents(root_dir=str(tmp_path))
    await contents.save(model(language), "a.ipynb")
    assert await read(contents, "a.ipynb") == stored(tmp_path, "a.ipynb") == language


async def test_files_and_folders_are_read_as_ever(tmp_path: Path) -> None:
    contents = Contents(root_dir=str(tmp_path))
    await contents.save({"type": "file", "format": "text", "content": "hello"}, "a.txt")
    assert (await contents.get("a.txt"))["content"] == "hello"
    assert [entry["name"] for entry in (await contents.get(""))["content"]] == ["a.txt"]
