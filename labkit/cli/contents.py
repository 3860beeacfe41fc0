"""Notebooks as `labkit lab` reads and saves them: a file does not tell which Python last opened it."""

import platform
from contextlib import suppress
from typing import Any

from jupyter_server.services.contents.largefilemanager import AsyncLargeFileManager
from tornado.web import HTTPError


class Contents(AsyncLargeFileManager):
    """JupyterLab's files, except that the version of Python stays what it is in a notebook's file.

    JupyterLab writes the version of the running Python into every notebook that it opens, and marks the
    notebook as changed if another one stands there. So it reads the running version and saves the old one.
    """

    async def get(self, path: str, *args: Any, **options: Any) -> dict[str, Any]:
        """As the base class; the notebook's version is that of the Python that runs here."""
        reading = super().get(path, *args, **options)  # type: ignore[no-untyped-call]
        model: dict[str, Any] = await reading
        if "version" in (language := _language(model)):
            language["version"] = platform.python_version()
        return model

    async def save(self, model: dict[str, Any], path: str = "") -> dict[str, Any]:
        """As the base class; the notebook's version is the one that its file had before."""
        language = _language(model)
        if "version" in language:
            with suppress(HTTPError):  # there is no such file yet, or it is no notebook
                reading = super().get(path)  # type: ignore[no-untyped-call]
                before = _language(await reading)
                language["version"] = before.get("version", language["version"])
        saving = super().save(model, path)  # type: ignore[no-untyped-call]
        saved: dict[str, Any] = await saving
        return saved


def _language(model: dict[str, Any]) -> dict[str, Any]:
    """The description of Python in a notebook's metadata; empty for any other language or file."""
    content = model.get("content") if model.get("type") == "notebook" else None
    language: dict[str, Any] = (content or {}).get("metadata", {}).get("language_info", {})
    return language if language.get("name") == "python" else {}
