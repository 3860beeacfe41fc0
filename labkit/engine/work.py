"""What a runner computes in one pass, and who is at fault where the pass raises."""

from collections.abc import Sequence as Many
from typing import NamedTuple, Protocol

from labkit.engine.sequence import Sequence
from labkit.errors import in_one_line

Work = tuple[Sequence, int]
"""A sequence and how many of its pending tokens to compute."""


class Counts(NamedTuple):
    """What an iteration computes. `labkit.engine.trace.Iteration` explains the fields."""

    prefill: int
    decodes: int
    attended: int


def counts(work: Many[Work]) -> Counts:
    """Count what `work` computes; call it before its tokens count as computed."""
    prefill = decodes = attended = 0
    for sequence, tokens in work:
        attended += tokens * sequence.computed + tokens * (tokens + 1) // 2
        if sequence.decoding:
            decodes += 1
        else:
            prefill += tokens
    return Counts(prefill, decodes, attended)


class Runner(Protocol):
    """Computes: it has the model, and the memory for keys and values."""

    def run(self, work: Many[Work]) -> list[int | None]:
        """Compute, and return a new token for each sequence; None where it has pending tokens left.

        If it raises, nothing has been computed or drawn: the same work can be run again, or a part of it.
        """

    def check(self, slot: int) -> None:
        """Compute a token that nobody asked for, in a slot that nobody needs; raise if even that fails."""

    def swap_out(self, sequence: Sequence) -> None:
        """Copy a sequence's keys and values to the store outside."""

    def swap_in(self, sequence: Sequence) -> None:
        """Copy them back into its slot, and drop the copy in the store."""

    def forget(self, sequence: Sequence) -> None:
        """Drop the copy in the store and what the slot holds, if any; the sequence does not come back."""

    def keep_blocks(self, sequence: Sequence, copies: Many[tuple[int, int]]) -> None:
        """Copy blocks of a sequence into the prefix cache, each given as (number, place in the cache)."""

    def use_blocks(self, sequence: Sequence, places: Many[int]) -> None:
        """Copy the blocks at these places of the prefix cache to the beginning of the sequence's slot."""


class Outcome(NamedTuple):
    """What came of a pass: the work that was done, what `Runner.run` returned for it, and who is at fault."""

    work: list[Work]
    chosen: list[int | None]
    faults: dict[Sequence, str]


def run(runner: Runner, work: list[Work]) -> Outcome:
    """Compute all sequences in one pass; where that raises, each alone, so that one does not harm another.

    Raises:
        Exception: no sequence could be computed, nor a token of no sequence: the runner is broken.
    """
    try:
        return Outcome(work, runner.run(work), {})
    except Exception:
        pass  # outside of this block the error, and with it the memory of the pass, is gone
    outcome = Outcome([], [], {})
    for sequence, tokens in work:
        try:
            outcome.chosen.extend(runner.run([(sequence, tokens)]))
            outcome.work.append((sequence, tokens))
        except Exception as error:
            outcome.faults[sequence] = in_one_line(error)
            runner.forget(sequence)
    if not outcome.work:
        slot = work[0][0].slot
        assert slot is not None
        runner.check(slot)
    return outcome
