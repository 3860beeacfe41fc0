"""Decides who computes in the next iteration; knows no model, no thread and no clock of its own."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


class Schedulable(Protocol):
    """What the scheduler needs to know of a sequence."""

    @property
    def wanted(self) -> bool:
        """Whether anybody still waits for it."""

    @property
    def writable(self) -> bool:
        """Whether its stream has room; false above the high-water mark."""

    @property
    def prefilled(self) -> bool:
        """Whether its prompt has been read."""

    @property
    def due_s(self) -> float:
        """The time before which it is not to get its next token: the pace."""


@dataclass(frozen=True)
class Plan:
    """One iteration: which sequences compute, by their places in the list, and how long to rest if none does.

    `rest_s` is None where only an event from outside (a new request, a drained stream) can change anything.
    """

    run: list[int]
    drop: list[int]
    rest_s: float | None


def plan(sequences: Sequence[Schedulable], now_s: float) -> Plan:
    """First come, first served: one prompt at a time is read, and everybody whose stream has room decodes.

    A single prefill an iteration bounds how long a newcomer's prompt can hold up those who are decoding.
    """
    run: list[int] = []
    drop: list[int] = []
    rest: float | None = None
    prefill_taken = False
    for place, sequence in enumerate(sequences):
        if not sequence.wanted:
            drop.append(place)
        elif not sequence.prefilled:
            if not prefill_taken:
                run.append(place)
            prefill_taken = True
        elif not sequence.writable:
            continue
        elif sequence.due_s <= now_s:
            run.append(place)
        else:
            wait = sequence.due_s - now_s
            rest = wait if rest is None else min(rest, wait)
    return Plan(run, drop, rest)
