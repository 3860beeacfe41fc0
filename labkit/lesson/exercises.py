"""Exercises of a chapter: they check an answer, and a wrong one never raises."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import EllipsisType
from typing import TypeVar

from labkit.lesson.mishaps import one_line

T = TypeVar("T")


@dataclass(frozen=True)
class Lines:
    """Text that a notebook shows as it is."""

    text: str

    def __repr__(self) -> str:
        return self.text


def check(answer: T | EllipsisType, conditions: Mapping[str, Callable[[T], bool]]) -> Lines:
    """Check the answer to an exercise against each named condition.

        check(my_n, {"it is a whole number": lambda n: type(n) is int, "it is even": lambda n: n % 2 == 0})

    `...` stands for an answer that is not given yet. A condition that raises does not hold.
    """
    if isinstance(answer, EllipsisType):
        return Lines("Put your answer in place of ... and run the cell again.")
    verdicts = [_verdict(name, condition, answer) for name, condition in conditions.items()]
    conclusion = "Solved." if all(holds for holds, _ in verdicts) else "Not yet: change it and run again."
    return Lines("\n".join([*(line for _, line in verdicts), conclusion]))


def _verdict(name: str, condition: Callable[[T], bool], answer: T) -> tuple[bool, str]:
    try:
        holds, reason = bool(condition(answer)), ""
    except Exception as error:  # The answer is wrong; the chapter is not broken.
        holds, reason = False, f"  ({type(error).__name__}: {one_line(error)})"
    return holds, f"{'✓' if holds else '✗'} {name}{reason}"


def lines(items: Iterable[object]) -> Lines:
    """Show each item on its own line."""
    return Lines("\n".join(str(item) for item in items))
