"""The index of the prefix cache: which blocks it finds, which it keeps, and whose place it reuses."""

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


def cached_blocks(index: PrefixIndex, text: list[int]) -> int:
    """How many blocks of a text are cached; the look-up does not count as a use."""
    places_before = index._places.copy()
    places = index.match(text)
    index._places = places_before
    return len(places)


def test_a_text_matches_up_to_the_first_block_that_differs() -> None:
    index = index_of(8, A + B + C)
    assert [cached_blocks(index, text) for text in (A + B + C, A + B + D, A, A + D + C, D)] == [3, 2, 1, 1, 0]


def test_only_full_blocks_are_kept_and_found() -> None:
    index = index_of(8, A + B[:-1])
    assert index.match(A + B) == index.match(A) != []
    assert index.match(A[:-1]) == []
    assert len(index_of(8).add(A + B[:-1])) == 1


def test_a_block_matches_only_after_the_same_tokens() -> None:
    index = index_of(8, A + B)
    assert index.match(B) == []
    assert index.match(C + B) == []
    assert index.match(B + A) == []


def test_new_blocks_are_returned_once_with_places_of_their_own() -> None:
    index = PrefixIndex(8 * BLOCK)
    first, second = dict(index.add(A + B)), dict(index.add(A + B + C + D))
    assert first.keys() == {0, 1} and second.keys() == {2, 3}
    assert index.add(A + B + C) == []
    assert index.match(A + B + C + D) == [first[0], first[1], second[2], second[3]]
    assert len(set(index.match(A + B + C + D))) == 4


def test_the_least_recently_used_goes_first() -> None:
    index = index_of(3, A, B, C)
    index.match(A)
    index.add(D)
    assert [cached_blocks(index, text) for text in (A, B, C, D)] == [1, 0, 1, 1]
    index.add(B)
    assert [cached_blocks(index, text) for text in (A, B, C, D)] == [1, 1, 0, 1]


def test_adding_again_is_a_use() -> None:
    index = index_of(2, A, B, A, C)
    assert [cached_blocks(index, text) for text in (A, B, C)] == [1, 0, 1]


def test_of_one_text_the_end_goes_before_the_beginning() -> None:
    index = index_of(3, A + B + C, D)
    assert cached_blocks(index, A + B + C) == 2
    index.match(A + B)
    index.add(C)
    assert [cached_blocks(index, text) for text in (A + B, D, C)] == [2, 0, 1]
    index.add(D)
    assert [cached_blocks(index, text) for text in (A + B, D, C)] == [1, 1, 1]


def test_a_text_longer_than_the_cache_keeps_its_beginning() -> None:
    index = PrefixIndex(2 * BLOCK)
    assert sorted(number for number, _ in index.add(A + B + C + D)) == [0, 1]
    assert cached_blocks(index, A + B + C + D) == 2


def test_a_cache_without_places_keeps_no_block() -> None:
    index = index_of(0, A)
    assert index.match(A) == []


def test_hits_and_lookups_count_tokens() -> None:
    index = index_of(8, A + B)
    index.match(A + B + C[:5])
    index.match(D)
    assert (index.hits, index.lookups) == (2 * BLOCK, 3 * BLOCK + 5)


texts = st.lists(st.lists(st.sampled_from([0, 1]), max_size=4), max_size=30)


@given(st.integers(1, 5), texts)
def test_a_match_gives_the_places_that_hold_its_text(capacity: int, used: list[list[int]]) -> None:
    index, places = PrefixIndex(capacity * BLOCK), dict[int, list[int]]()
    for numbers in used:
        text = [number for number in numbers for _ in range(BLOCK)]
        for block, place in enumerate(index.match(text)):
            assert places[place] == text[: (block + 1) * BLOCK]
        for block, place in index.add(text):
            assert 0 <= place < capacity
            places[place] = text[: (block + 1) * BLOCK]
        assert cached_blocks(index, text) == min(len(numbers), capacity)
