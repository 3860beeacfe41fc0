"""Exercises of a chapter: each checks itself and takes a wrong answer kindly."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import EllipsisType
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Lines:
    """Text that a notebook shows as it is."""

    text: str

    def __repr__(self) -> str:
        return self.text


def check(answer: T | EllipsisType, conditions: Mapping[str, Callable[[T], bool]]) -> "Lines":
    """Check an exercise: the answer against each named condition; `...` is one that is not given yet."""
    if isinstance(answer, EllipsisType):
        return Lines("Put your answer in place of ... and run the cell again.")
    results = [_verdict(name, condition, answer) for name, condition in conditions.items()]
    lines = [line for _, line in results]
    solved = all(passed for passed, _ in results)
    return Lines("\n".join([*lines, "Solved." if solved else "Not yet: change it and run again."]))


def _verdict(name: str, condition: Callable[[T], bool], answer: T) -> tuple[bool, str]:
    try:
        passed, why = bool(condition(answer)), ""
    except Exception as error:  # a wrong answer, not a broken chapter
        passed, why = False, f"  ({type(error).__name__}: {error})"
    return passed, f"{'✓' if passed else '✗'} {name}{why}"


def lines(items: Iterable[object]) -> "Lines":
    """Show one item a line."""
    return Lines("\n".join(str(item) for item in items))
