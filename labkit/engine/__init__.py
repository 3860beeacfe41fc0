"""Engines: what turns a request into a stream of tokens. None is imported before it is asked for."""

import weakref
from importlib import import_module
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from labkit.engine.base import Engine
from labkit.errors import InvalidRequest, StartError

ENGINES = {
    "tiny": ("labkit.engine.local", "LocalEngine"),
    "scripted": ("labkit.engine.scripted", "ScriptedEngine"),
}

_made: weakref.WeakSet[Engine] = weakref.WeakSet()

__all__ = ["ENGINES", "Engine", "close_engines", "create_engine"]


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
    try:
        engine: Engine = make(**_options(name, options, make))
    except InvalidRequest as error:
        raise StartError(f"engine {name!r}: {error}") from None
    _made.add(engine)
    return engine


def close_engines() -> None:
    """Close every engine that `create_engine` has made and that is still about."""
    for engine in list(_made):
        engine.close()


def _options(name: str, text: str, make: Any) -> dict[str, Any]:
    """The options as the types that the engine's constructor declares."""
    known = get_type_hints(make.__init__)
    known.pop("return", None)
    options: dict[str, Any] = {}
    for item in filter(None, text.split(",")):
        key, _, value = item.partition("=")
        if key not in known:
            raise StartError(f"engine {name!r} has no option {key!r}: there are {', '.join(known)}")
        try:
            options[key] = TypeAdapter(known[key]).validate_python(value)
        except ValidationError as error:
            raise StartError(f"engine {name!r}: {key}={value!r}: {error.errors()[0]['msg']}") from None
    return options
