"""What the core keeps of a text: in a slot, in the store while it is swapped out, in the prefix cache."""

from core_stage import Stage

from labkit.engine.scheduler import BLOCK, Limits
from labkit.engine.trace import Moved


def test_an_evicted_text_is_computed_again_from_its_first_token_to_its_last() -> None:
    stage = Stage(Limits(1000, 2))
    one = stage.add([3] * 10)
    for tokens in (6, 4, 1, 1):
        stage.play((one, tokens))
    stage.play(evict=[one])
    assert (one.slot, one.pending, stage.core.kv_tokens) == (None, 13, 0)
    again = stage.play((one, one.pending))
    assert again and (again.prefill, again.decodes, again.swapped) == (13, 0, 0)
    assert again.attended == 13 * 14 // 2
    assert stage.runner.computed[one] == [6, 4, 1, 1, 13]


def test_a_swapped_text_comes_back_without_computing() -> None:
    stage = Stage(Limits(1000, 1, preemption="swap"))
    one, other = stage.add([3] * 10), stage.add([4] * 3)
    stage.play((one, 10))
    away = stage.play((other, 3), evict=[one])
    assert away and (away.swapped, away.running, away.waiting) == (10, 1, 1)
    stage.core.limits = Limits(1000, 1, preemption="recompute")  # the copy in the store still comes back
    back = stage.play((one, 1), evict=[other])
    assert back and (back.swapped, back.decodes, back.attended) == (10, 1, 11)
    assert stage.runner.computed[one] == [10, 1]


def test_a_sequence_that_leaves_while_it_waits_is_forgotten() -> None:
    stage = Stage(Limits(1000, 1, preemption="swap"))
    one = stage.add([3] * 10)
    stage.play((one, 10))
    stage.play(evict=[one])
    assert one in stage.runner.store
    ends: list[tuple[str, str]] = []
    one.end = lambda *reason: ends.append(reason)  # type: ignore[method-assign]
    stage.core.drop(one, "overloaded", "too late")
    assert ends == [("overloaded", "too late")]
    assert (stage.runner.store, stage.core.waiting) == ({}, [])
    assert stage.records[-1] == Moved(stage.runner.now_s, one.number, "dropped")


def test_free_slots_are_given_from_the_lowest() -> None:
    stage = Stage(Limits(1000, 4))
    first, second, third = (stage.add([1]) for _ in range(3))
    stage.play((first, 1), (second, 1), (third, 1))
    assert [s.slot for s in (first, second, third)] == [0, 1, 2]
    stage.core.drop(first)
    stage.core.drop(third)
    later = stage.add([1])
    stage.play((later, 1))
    assert later.slot == 0
    assert stage.core.running == [second, later]
    again = stage.play((second, 1), evict=[second])
    assert again and stage.core.running == [second, later]


def test_a_cached_prefix_is_not_computed() -> None:
    stage = Stage(Limits(1000, 2), prefix_tokens=10 * BLOCK)
    prompt = list(range(3 * BLOCK))
    one, other, alike = stage.add(prompt), stage.add([*prompt, 7, 8]), stage.add(prompt)
    stage.play((one, len(prompt)))
    stage.play((other, other.pending))
    stage.core.drop(other)
    last = stage.play((alike, alike.pending))
    assert last and last.cached == 2 * BLOCK
    assert stage.runner.computed == {one: [3 * BLOCK], other: [2], alike: [BLOCK]}


def test_an_answer_is_kept_with_its_prompt_when_it_ends() -> None:
    stage = Stage(Limits(1000, 2), prefix_tokens=10 * BLOCK)
    one = stage.add([3] * BLOCK, max_tokens=BLOCK + 1)
    stage.play((one, BLOCK))
    for _ in range(BLOCK):
        last = stage.play((one, 1))
    assert one.finished and last and (last.kv_tokens, last.running) == (0, 1)
    longer = stage.add(one.tokens)
    stage.play((longer, longer.pending))
    assert stage.runner.computed[longer] == [1]


def test_a_swap_without_an_iteration_counts_in_the_next_one() -> None:
    stage = Stage(Limits(1000, 1, preemption="swap"))
    one, other = stage.add([3] * 10), stage.add([4] * 3)
    stage.play((one, 10))
    assert stage.play(evict=[one]) is None
    then, after = stage.play((other, 3)), stage.play((other, 1))
    assert then and after and (then.swapped, after.swapped) == (10, 0)
