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

    All of them are knobs, which `Engine.tune` changes while streams run, except those that `fixed` names.

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
            InvalidRequest: there is no option of a name, or its value is out of range.
        """
        types = cls.types()
        for name in values:
            if name not in types:
                raise InvalidRequest(f"{cls.__name__} has no option {name!r}: it has {', '.join(types)}")
        return cls(**{name: valid(name, types[name], value) for name, value in values.items()})

    def turned(self, engine: str, knobs: Mapping[str, Any]) -> Self:
        """These options with other values of some knobs; `engine` is the name that messages give.

        Raises:
            InvalidRequest: there is no knob of a name, or its value is out of range.
        """
        types = {name: kind for name, kind in self.types().items() if name not in self.fixed}
        for name in knobs:
            if name not in types:
                raise InvalidRequest(f"engine {engine!r} has no knob {name!r}: it has {', '.join(types)}")
        return replace(self, **{name: valid(name, types[name], value) for name, value in knobs.items()})


@dataclass(frozen=True)
class Scheduling(Options, Limits):
    """The options of an engine that batches: the limits of its policy, and what stands around the policy.

    Args:
        kv_tokens: as in `Limits`, from one context upwards; 0 is all that `seqs` can use.
        policy: the name of a policy of `labkit.engine.policies`, which decides who computes when.
        prefix_cache: how many tokens of beginnings of texts to keep for others that begin alike; 0 for none.
        threads: of torch, for this process. More than one is faster on a quiet machine, slower on a busy one.

    The others are those of `Limits` and `Options`.
    """

    fixed: ClassVar[frozenset[str]] = frozenset({"seqs", "prefix_cache", "threads"})

    kv_tokens: Annotated[int, Field(ge=0)] = 0
    seqs: Seqs = 64
    policy: str = "sarathi"
    prefix_cache: Annotated[int, Field(ge=0, le=1 << 20)] = 0
    threads: Annotated[int, Field(ge=1, le=1024)] = 1

    def within(self, context: int) -> Self:
        """The same for sequences of up to `context` tokens: `kv_tokens` is the number of them, and not 0.

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
    """Return the value of an option as its type, which may be annotated with pydantic's limits.

    Raises:
        InvalidRequest: it has another type, or is out of range.
    """
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        raise InvalidRequest(f"{name}: {error.errors()[0]['msg']}, not {value!r}") from None
