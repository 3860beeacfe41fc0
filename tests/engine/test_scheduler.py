"""How a plan is filled: budget, seats and memory, and which sequence makes room for which."""

from collections.abc import Sequence as Many
from dataclasses import replace
from typing import Any

import pytest

from labkit.engine.scheduler import BLOCK, Estimates, Filling, Limits, Plan, Situation, blocks, check
from labkit.engine.sequence import Sequence


def situation(
    running: Many[Sequence] = (), waiting: Many[Sequence] = (), limits: Limits | None = None
) -> Situation:
    return Situation(0.0, running, waiting, limits or Limits(100 * BLOCK, 8), Estimates())


def holding(computed: int, **more: bool) -> Sequence:
    """A sequence that holds the KV of `computed` tokens and is about to decode."""
    sequence = Sequence("", [1] * computed, 50, 0.0)
    sequence.tokens.append(2)
    sequence.computed, sequence.slot = computed, 0
    sequence.stalled = more.get("stalled", False)
    sequence.ready = not sequence.stalled
    return sequence


def test_memory_is_given_out_in_blocks() -> None:
    edge, within = holding(BLOCK), holding(BLOCK + 1)
    filling = Filling(situation([edge, within], limits=Limits(4 * BLOCK, 8, memory="optimistic")))
    assert filling.free == BLOCK
    assert filling.take(edge) and filling.free == 0
    assert filling.take(within) and filling.free == 0


def test_reserve_takes_room_for_the_longest_answer() -> None:
    new = Sequence("", [1] * 10, 50, 0.0)
    reserve, optimistic = Limits(100 * BLOCK, 8), Limits(100 * BLOCK, 8, memory="optimistic")
    for limits, room in ((reserve, blocks(59)), (optimistic, blocks(10))):
        filling = Filling(situation(waiting=[new], limits=limits))
        filling.fill([new])
        assert filling.free == 100 * BLOCK - room


def test_a_budget_cuts_a_prompt() -> None:
    prompt, after = Sequence("", [1] * 100, 5, 0.0), Sequence("", [1] * 100, 5, 0.0)
    filling = Filling(situation(waiting=[prompt, after], limits=Limits(100 * BLOCK, 8, budget=130)))
    filling.fill([prompt, prompt, after])
    assert filling.plan.run == [(prompt, 100), (after, 30)]


def test_no_sequence_is_evicted_that_computes_or_whose_room_is_not_enough() -> None:
    taken, needs, later = holding(BLOCK), holding(BLOCK), holding(BLOCK)
    filling = Filling(situation([taken, needs, later], limits=Limits(4 * BLOCK, 8, memory="optimistic")))
    filling.fill([taken, needs], victims=[later, needs, taken])
    assert filling.plan.run == [(taken, 1), (needs, 1)]
    assert filling.plan.evict == [later]


def test_a_stalled_reader_makes_room_for_any_sequence() -> None:
    stalled, new = holding(BLOCK, stalled=True), Sequence("", [1], 5, 0.0)
    filling = Filling(situation([stalled], [new], Limits(10 * BLOCK, 1)))
    filling.fill([stalled, new])
    assert filling.plan == Plan([(new, 1)], [stalled])


def test_no_sequence_is_evicted_where_that_is_not_enough() -> None:
    stalled, big = holding(BLOCK, stalled=True), holding(10 * BLOCK - 1)
    long, short = Sequence("", [1] * 6 * BLOCK, 5, 0.0), Sequence("", [1] * 2 * BLOCK, 5, 0.0)
    limits = Limits(12 * BLOCK, 3, memory="optimistic")
    filling = Filling(situation([stalled, big], [long, short], limits))
    filling.fill([big, long])
    assert filling.plan == Plan([(big, 1)])
    filling.fill([short])
    assert filling.plan == Plan([(big, 1), (short, 2 * BLOCK)], [stalled])


def test_victims_make_room_for_those_with_kv_alone() -> None:
    victim, new = holding(BLOCK), Sequence("", [1], 5, 0.0)
    filling = Filling(situation([victim], [new], Limits(10 * BLOCK, 1)))
    filling.fill([new], victims=[victim])
    assert filling.plan == Plan()


def test_the_cost_of_an_eviction_follows_from_the_estimates() -> None:
    sequence = holding(10)
    estimates = Estimates(step_s=1.0, prefill_token_s=0.5, swap_token_s=0.125)
    recompute = replace(situation([sequence]), estimates=estimates)
    swap = replace(recompute, limits=replace(recompute.limits, preemption="swap"))
    assert (recompute.restore_s(sequence), swap.restore_s(sequence)) == (5.0, 2.5)


def test_an_evicted_sequence_costs_only_its_way_back() -> None:
    evicted, swapped = holding(10), holding(10)
    evicted.slot = swapped.slot = None
    evicted.computed, swapped.swapped = 0, True
    now = replace(situation(waiting=[evicted, swapped]), estimates=Estimates(1.0, 0.5, 0.125))
    assert (now.restore_s(evicted), now.restore_s(swapped)) == (11 * 0.5, 10 * 0.125)


ONE, OTHER, NEW, FOREIGN = holding(BLOCK), holding(BLOCK), Sequence("", [1] * 20, 5, 0.0), holding(BLOCK)
STALLED = holding(BLOCK, stalled=True)
TIGHT = {"memory": "optimistic", "kv_tokens": 4 * BLOCK}


@pytest.mark.parametrize(
    ("plan", "limits", "message"),
    [
        (Plan([(ONE, 1), (ONE, 1)]), {}, "names a sequence twice"),
        (Plan(evict=[ONE, ONE]), {}, "names a sequence twice"),
        (Plan(evict=[NEW]), {}, "evicts a sequence that holds no KV"),
        (Plan([(FOREIGN, 1)]), {}, "not here"),
        (Plan([(STALLED, 1)]), {}, "not ready"),
        (Plan([(ONE, 0)]), {}, "gives 0 tokens to a sequence that has 1 pending"),
        (Plan([(NEW, 21)]), {}, "gives 21 tokens to a sequence that has 20 pending"),
        (
            Plan([(ONE, 1), (NEW, 20)]),
            {"budget": 20},
            "computes 21 tokens in one iteration: the budget is 20",
        ),
        (Plan([(NEW, 20)]), {"seqs": 3}, "lets 4 sequences hold KV: seqs is 3"),
        (Plan([(NEW, 20)]), {"kv_tokens": 15 * BLOCK}, "takes 272 tokens of KV: kv_tokens is 240"),
        (Plan([(ONE, 1), (OTHER, 1)]), TIGHT, "takes 80 tokens of KV: kv_tokens is 64"),
    ],
)
def test_an_impossible_plan_is_refused(plan: Plan, limits: dict[str, Any], message: str) -> None:
    now = situation([ONE, OTHER, STALLED], [NEW], replace(Limits(100 * BLOCK, 8), **limits))
    with pytest.raises(ValueError, match=f"policy 'mine' .*{message}"):
        check(plan, now, "mine")


@pytest.mark.parametrize(
    ("plan", "limits"),
    [
        (Plan([(ONE, 1), (OTHER, 1), (NEW, 20)]), {"budget": 22}),
        (Plan([(ONE, 1)]), {"budget": 1}),  # fewer than decode: the others wait
        (Plan([(NEW, 20)], [STALLED]), {"seqs": 3}),
        (Plan([(ONE, 1)], [OTHER]), TIGHT),
        # sequences that hold KV may stay after the limits were lowered
        (Plan(), {"kv_tokens": BLOCK, "seqs": 1}),
        (Plan([(ONE, 1)]), {"kv_tokens": BLOCK, "seqs": 1}),
    ],
)
def test_a_plan_within_the_limits_is_not_refused(plan: Plan, limits: dict[str, Any]) -> None:
    check(plan, situation([ONE, OTHER, STALLED], [NEW], replace(Limits(100 * BLOCK, 8), **limits)), "mine")
