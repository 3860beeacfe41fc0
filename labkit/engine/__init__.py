"""Engines turn a request into a stream of tokens. Each is imported when it is first created."""

import weakref
from importlib import import_module
from inspect import Parameter, signature
from typing import Any, get_type_hints

from labkit.engine.base import Engine
from labkit.engine.options import valid
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
"""What `pip install` takes for an engine, where it is not just the missing package."""

_engines: weakref.WeakSet[Engine] = weakref.WeakSet()

__all__ = ["ENGINES", "Engine", "close_engines", "create_engine"]


def create_engine(text: str) -> Engine:
    """Make an engine from its text form, which is `NAME` or `NAME:OPTION=VALUE,…`.

        create_engine("tiny")
        create_engine("scripted:tokens=256,interval_ms=5")
        create_engine("hf:path/to/model,seqs=4")    # the target comes first and ends at the comma
        create_engine("process:tiny:policy=fcfs")   # here the target is all the rest, another engine's text

    Raises:
        StartError: there is no such engine or option, the target, a package or the weights are missing, or a
            value is out of range.
    """
    name, _, rest = text.partition(":")
    if name not in ENGINES:
        raise StartError(f"no engine {name!r}: there are {', '.join(ENGINES)}")
    module, kind = ENGINES[name]
    try:
        constructor = getattr(import_module(module), kind)
        target, options = _split(name, rest)
        types = _option_types(constructor, skip=len(target))
        engine: Engine = constructor(*target, **_options(name, options, types))
    except ModuleNotFoundError as error:
        package = EXTRAS.get(name, error.name)
        raise StartError(f"engine {name!r} needs the package {error.name}: pip install {package}") from error
    except InvalidRequest as error:
        raise StartError(f"engine {name!r}: {error}") from None
    _engines.add(engine)
    return engine


def close_engines() -> None:
    """Close every engine of `create_engine` that still exists."""
    for engine in list(_engines):
        engine.close()


def _split(name: str, rest: str) -> tuple[list[str], str]:
    """The target, if the engine has one, and the text of the options."""
    if name not in EXAMPLES:
        return [], rest
    target, _, options = (rest, "", "") if name == "process" else rest.partition(",")
    if not target:
        raise StartError(f"engine {name!r} needs a target, for instance {EXAMPLES[name]!r}")
    return [target], options


def _option_types(constructor: Any, skip: int) -> dict[str, Any]:
    """The options of an engine and their types: its constructor's parameters after the first `skip`.

    Where the constructor takes other keywords, they are the fields of the class's `keywords`.
    """
    hints = get_type_hints(constructor.__init__)
    parameters = list(signature(constructor).parameters.values())[skip:]
    own = {p.name: hints[p.name] for p in parameters if p.kind is not Parameter.VAR_KEYWORD}
    return own if len(own) == len(parameters) else {**own, **constructor.keywords.types()}


def _options(name: str, text: str, types: dict[str, Any]) -> dict[str, Any]:
    """The options that a text gives, each as its type."""
    options: dict[str, Any] = {}
    for item in filter(None, text.split(",")):
        key, _, value = item.partition("=")
        if key not in types:
            raise StartError(f"engine {name!r} has no option {key!r}: there are {', '.join(types)}")
        options[key] = valid(key, types[key], value)
    return options
