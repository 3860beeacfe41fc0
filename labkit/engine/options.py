"""The options of engines: each is declared once, as the field of a frozen value, and checked there.

`Options` has those of every engine, `Scheduling` those of the engines that batch. The same declaration serves
the constructor (`LocalEngine(policy="fcfs")`), the text form (`tiny:policy=fcfs`) and `Engine.tune`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, ClassVar, Self, get_type_hints

from pydantic import Field, TypeAdapter, ValidationError

from labkit.engine.scheduler import Limits, Seqs, blocks
from labkit.errors import InvalidRequest


@dataclass(frozen=True)
class Options:
    """The options that every engine has.

    All of them except those in `fixed` are knobs: `Engine.tune` changes them while streams run.

    Args:
        interval_ms: the pace, the least time between two tokens of one stream; 0 is as fast as it can.
    """

    fixed: ClassVar[frozenset[str]] = frozenset()

    interval_ms: Annotated[float, Field(ge=0, le=3_600_000)] = 0.0

    @classmethod
    def types(cls) -> dict[str, Any]:
        """Each option's name and its type."""
        hints = get_type_hints(cls, include_extras=True)
        return {field.name: hints[field.name] for field in fields(cls)}

    @classmethod
    def checked(cls, values: Mapping[str, Any]) -> Self:
        """Make the options from values, which may be text: "4096" becomes 4096.

        Raises:
            InvalidRequest: a name is not an option, or a value is out of range.
        """
        types = cls.types()
        for name in values:
            if name not in types:
                raise InvalidRequest(f"{cls.__name__} has no option {name!r}: it has {', '.join(types)}")
        return cls(**{name: valid(name, types[name], value) for name, value in values.items()})

    def turned(self, engine: str, knobs: Mapping[str, Any]) -> Self:
        """Return these options with other values of some knobs; messages name the `engine`.

        Raises:
            InvalidRequest: a name is not a knob, or a value is out of range.
        """
        types = {name: kind for name, kind in self.types().items() if name not in self.fixed}
        for name in knobs:
            if name not in types:
                raise InvalidRequest(f"engine {engine!r} has no knob {name!r}: it has {', '.join(types)}")
        return replace(self, **{name: valid(name, types[name], value) for name, value in knobs.items()})


@dataclass(frozen=True)
class Scheduling(Options, Limits):
    """The options of an engine that batches: the policy, its limits, and the engine's own.

    Args:
        kv_tokens: as in `Limits`, at least one context; 0 means as many as `seqs` sequences can use.
        policy: the name of a policy of `labkit.engine.policies`, which decides who computes when.
        prefix_cache: the size in tokens of the cache for texts that begin alike; 0 for none.
        threads: torch's threads in this process. More than one is faster on a quiet machine, slower on a busy
            one.

    The others are those of `Limits` and `Options`.
    """

    fixed: ClassVar[frozenset[str]] = frozenset({"seqs", "prefix_cache", "threads"})

    kv_tokens: Annotated[int, Field(ge=0)] = 0
    seqs: Seqs = 64
    policy: str = "sarathi"
    prefix_cache: Annotated[int, Field(ge=0, le=1 << 20)] = 0
    threads: Annotated[int, Field(ge=1, le=1024)] = 1

    def within(self, context: int) -> Self:
        """Return these options for sequences of up to `context` tokens, with a number for `kv_tokens`.

        Raises:
            InvalidRequest: `kv_tokens` is less than one context takes, or more than all `seqs` can use.
        """
        least, most = blocks(context), self.seqs * blocks(context)
        kv_tokens = self.kv_tokens or most
        if not least <= kv_tokens <= most:
            raise InvalidRequest(
                f"kv_tokens: {least} (one context) to {most} (a context for each of seqs), not {kv_tokens}"
            )
        return replace(self, kv_tokens=kv_tokens)


def valid(name: str, kind: Any, value: Any) -> Any:
    """Convert the value of an option to its type, which may be annotated with pydantic's limits.

    Raises:
        InvalidRequest: the value has another type, or is out of range.
    """
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        raise InvalidRequest(f"{name}: {error.errors()[0]['msg']}, not {value!r}") from None
