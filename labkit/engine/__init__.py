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
    "hf": ("labkit.engine.hf", "HFEngine"),
    "openai": ("labkit.engine.openai", "OpenAIEngine"),
    "process": ("labkit.engine.isolated", "IsolatedEngine"),
}

EXAMPLES = {
    "hf": "hf:path/to/model",
    "openai": "openai:http://127.0.0.1:8001/v1",
    "process": "process:tiny",
}
"""The engines that have a target, which is the first parameter of their constructor."""

EXTRAS = {"hf": '"labkit[hf]"'}
"""What installs an engine's packages, where it is not the missing package alone."""

_made: weakref.WeakSet[Engine] = weakref.WeakSet()

__all__ = ["ENGINES", "Engine", "close_engines", "create_engine"]


def create_engine(text: str) -> Engine:
    """Make an engine from its text form.

    `NAME` or `NAME:OPTION=VALUE,…`, for instance `tiny`, `scripted:tokens=256,interval_ms=5`. Three engines
    have a target first, which ends at the first comma: `hf:PATH`, `openai:URL,OPTION=VALUE,…`; that of
    `process:ENGINE` is the whole rest, the text of the engine that runs in a subprocess.

    Raises:
        StartError: no such engine or option, no target, a package or the weights are missing.
    """
    name, _, rest = text.partition(":")
    if name not in ENGINES:
        raise StartError(f"no engine {name!r}: there are {', '.join(ENGINES)}")
    module, kind = ENGINES[name]
    try:
        make = getattr(import_module(module), kind)
        target, options = _split(name, rest)
        engine: Engine = make(*target, **_options(name, options, make, skip=len(target)))
    except ModuleNotFoundError as error:
        package = EXTRAS.get(name, error.name)
        raise StartError(f"engine {name!r} needs the package {error.name}: pip install {package}") from error
    except InvalidRequest as error:
        raise StartError(f"engine {name!r}: {error}") from None
    _made.add(engine)
    return engine


def close_engines() -> None:
    """Close every engine that `create_engine` has made and that is still about."""
    for engine in list(_made):
        engine.close()


def _split(name: str, rest: str) -> tuple[list[str], str]:
    """The target, if the engine has one, and the text of the options."""
    if name not in EXAMPLES:
        return [], rest
    target, _, options = (rest, "", "") if name == "process" else rest.partition(",")
    if not target:
        raise StartError(f"engine {name!r} needs to know which: {EXAMPLES[name]!r}, for instance")
    return [target], options


def _options(name: str, text: str, make: Any, skip: int) -> dict[str, Any]:
    """The options as the types that the engine's constructor declares, after the `skip` first parameters."""
    known = get_type_hints(make.__init__)
    known.pop("return", None)
    for target in list(known)[:skip]:
        del known[target]
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
