"""The index of kept prefixes: which blocks it finds, which it keeps, and whose place it gives anew."""

from hypothesis import given
from hypothesis import strategies as st

from labkit.engine.prefix import PrefixIndex
from labkit.engine.scheduler import BLOCK

A, B, C, D = ([n] * BLOCK for n in range(4))


def index_of(blocks: int, *texts: list[int]) -> PrefixIndex:
    index = PrefixIndex(blocks * BLOCK)
    for text in texts:
        index.add(text)
    return index


def found(index: PrefixIndex, text: list[int]) -> int:
    """How many blocks of a text are kept, asked without using them."""
    kept = index._of.copy()
    places = index.match(text)
    index._of = kept
    return len(places)


def test_a_text_is_found_as_far_as_it_goes_alike() -> None:
    index = index_of(8, A + B + C)
    assert [found(index, text) for text in (A + B + C, A + B + D, A, A + D + C, D)] == [3, 2, 1, 1, 0]


def test_only_full_blocks_are_kept_and_found() -> None:
    index = index_of(8, A + B[:-1])
    assert index.match(A + B) == index.match(A) != []
    assert index.match(A[:-1]) == []
    assert len(index_of(8).add(A + B[:-1])) == 1


def test_a_block_is_known_by_all_that_is_before_it() -> None:
    index = index_of(8, A + B)
    assert index.match(B) == []
    assert index.match(C + B) == []
    assert index.match(B + A) == []


def test_new_blocks_are_told_once_with_places_of_their_own() -> None:
    index = PrefixIndex(8 * BLOCK)
    first, second = dict(index.add(A + B)), dict(index.add(A + B + C + D))
    assert first.keys() == {0, 1} and second.keys() == {2, 3}
    assert index.add(A + B + C) == []
    assert index.match(A + B + C + D) == [first[0], first[1], second[2], second[3]]
    assert len(set(index.match(A + B + C + D))) == 4


def test_the_longest_unused_goes_first() -> None:
    index = index_of(3, A, B, C)
    index.match(A)
    index.add(D)
    assert [found(index, text) for text in (A, B, C, D)] == [1, 0, 1, 1]
    index.add(B)
    assert [found(index, text) for text in (A, B, C, D)] == [1, 1, 0, 1]


def test_adding_again_is_a_use() -> None:
    index = index_of(2, A, B, A, C)
    assert [found(index, text) for text in (A, B, C)] == [1, 0, 1]


def test_of_one_text_the_end_goes_before_the_beginning() -> None:
    index = index_of(3, A + B + C, D)
    assert found(index, A + B + C) == 2
    index.match(A + B)
    index.add(C)
    assert [found(index, text) for text in (A + B, D, C)] == [2, 0, 1]
    index.add(D)
    assert [found(index, text) for text in (A + B, D, C)] == [1, 1, 1]


def test_a_text_longer_than_the_cache_keeps_its_beginning() -> None:
    index = PrefixIndex(2 * BLOCK)
    assert sorted(number for number, _ in index.add(A + B + C + D)) == [0, 1]
    assert found(index, A + B + C + D) == 2


def test_no_room_keeps_nothing() -> None:
    index = index_of(0, A)
    assert index.match(A) == []


def test_what_was_asked_and_found_is_counted_in_tokens() -> None:
    index = index_of(8, A + B)
    index.match(A + B + C[:5])
    index.match(D)
    assert (index.hits, index.asked) == (2 * BLOCK, 3 * BLOCK + 5)


texts = st.lists(st.lists(st.sampled_from([0, 1]), max_size=4), max_size=30)


@given(st.integers(1, 5), texts)
def test_what_is_found_is_what_was_last_put_there(capacity: int, used: list[list[int]]) -> None:
    index, places = PrefixIndex(capacity * BLOCK), dict[int, list[int]]()
    for numbers in used:
        text = [number for number in numbers for _ in range(BLOCK)]
        for block, place in enumerate(index.match(text)):
            assert places[place] == text[: (block + 1) * BLOCK]
        for block, place in index.add(text):
            assert 0 <= place < capacity
            places[place] = text[: (block + 1) * BLOCK]
        assert found(index, text) == min(len(numbers), capacity)
