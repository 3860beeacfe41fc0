"""What every engine offers a server: submit a request, get a stream of events."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from pydantic import TypeAdapter, ValidationError

from labkit.errors import InvalidRequest
from labkit.stream import Stream


class Engine(Protocol):
    """A model that answers many requests at once; servers of any interface share it."""

    name: str

    @property
    def failed(self) -> str | None:
        """Why it answers no more: it is closed, or has broken. None while it does."""

    def submit(self, request: Any) -> Stream:
        """Begin to answer a workload's request, on the caller's running loop; closing the stream stops it.

        Raises:
            InvalidRequest: this engine cannot answer it (a prompt longer than its context, say).
            EngineFailed: the engine is closed, or has broken.
        """

    def tune(self, **knobs: Any) -> None:
        """Turn knobs while streams run.

        Every engine here has `interval_ms`, its pace: the least time between two tokens of one stream; 0 is
        as fast as it can.

        Raises:
            InvalidRequest: no such knob, or out of range; nothing was changed.
        """

    def close(self) -> None:
        """Stop all work and free what the engine holds; open streams end in `Failed`. May be called twice."""


Knobs = Mapping[str, Callable[[Any], Any]]
"""An engine's knobs by name, each with what checks a value and returns it."""


def checked(engine: Engine, knobs: Knobs, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values as their knobs take them.

    Raises:
        InvalidRequest: no such knob, or out of range.
    """
    for name in values:
        if name not in knobs:
            raise InvalidRequest(f"engine {engine.name!r} has no knob {name!r}: it has {', '.join(knobs)}")
    return {name: knobs[name](value) for name, value in values.items()}


def turn(engine: Engine, knobs: Knobs, values: Mapping[str, Any]) -> None:
    """Check every value, then set the attributes of those names; raises as `checked` does."""
    for name, value in checked(engine, knobs, values).items():
        setattr(engine, name, value)


def of_type(name: str, kind: Any) -> Callable[[Any], Any]:
    """A check that a value is of a type, which may be annotated with pydantic's limits.

    The check raises InvalidRequest.
    """
    adapter: TypeAdapter[Any] = TypeAdapter(kind)

    def check(value: Any) -> Any:
        try:
            return adapter.validate_python(value)
        except ValidationError as error:
            raise InvalidRequest(f"{name}: {error.errors()[0]['msg']}, not {value!r}") from None

    return check


def interval_ms(value: Any) -> float:
    """A pace: 0 to 3,600,000 ms.

    Raises:
        InvalidRequest: it is something else.
    """
    try:
        ms = float(value)
    except (TypeError, ValueError):
        ms = -1.0
    if not 0 <= ms <= 3_600_000:
        raise InvalidRequest(f"interval_ms: 0 to 3600000, not {value!r}")
    return ms
