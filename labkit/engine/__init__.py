"""Engines: what turns a request into a stream of tokens. None is imported before it is asked for."""

import inspect
from importlib import import_module
from typing import Any

from labkit.engine.base import Engine
from labkit.errors import StartError

ENGINES = {
    "tiny": ("labkit.engine.local", "LocalEngine"),
    "scripted": ("labkit.engine.scripted", "ScriptedEngine"),
}

__all__ = ["ENGINES", "Engine", "create_engine"]


def create_engine(text: str) -> Engine:
    """Make an engine from its text form, `NAME` or `NAME:OPTION=VALUE,…`.

    For instance `tiny`, `tiny:interval_ms=20`, `scripted:tokens=256,interval_ms=5`.

    Raises:
        StartError: no such engine or option, or its weights are missing.
    """
    name, _, options = text.partition(":")
    if name not in ENGINES:
        raise StartError(f"no engine {name!r}: there are {', '.join(ENGINES)}")
    module, kind = ENGINES[name]
    try:
        make = getattr(import_module(module), kind)
    except ModuleNotFoundError as error:
        raise StartError(
            f"engine {name!r} needs the package {error.name}: pip install {error.name}"
        ) from None
    engine: Engine = make(**_options(name, options, make))
    return engine


def _options(name: str, text: str, make: Any) -> dict[str, Any]:
    known = inspect.signature(make).parameters
    options: dict[str, Any] = {}
    for item in filter(None, text.split(",")):
        key, _, value = item.partition("=")
        if key not in known:
            raise StartError(f"engine {name!r} has no option {key!r}: there are {', '.join(known)}")
        try:
            options[key] = int(value) if "int" in str(known[key].annotation) else float(value)
        except ValueError:
            raise StartError(f"engine {name!r}: {key}={value!r} is not a number") from None
    return options
