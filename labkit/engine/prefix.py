"""The index of the prefix cache: which beginnings of texts it holds keys and values of, and where.

As in vLLM, the key of a block is the hash of its tokens and of all tokens before them. Unlike there, a cached
block is a copy. It is made when a sequence has read its prompt and when it ends, and a sequence that begins
with the same tokens gets a copy of it.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from itertools import takewhile

from labkit.engine.scheduler import BLOCK


class PrefixIndex:
    """Knows which block is in which place. If all places are taken, the least recently used one is reused.

    Args:
        tokens: how many tokens the places hold together.

    Attributes:
        hits: how many tokens `match` has found so far.
        lookups: how many tokens `match` has looked for so far.
    """

    def __init__(self, tokens: int) -> None:
        self.capacity = tokens // BLOCK
        self.hits = self.lookups = 0
        self._places: OrderedDict[int, int] = OrderedDict()  # by key, the least recently used first

    def match(self, tokens: Sequence[int]) -> list[int]:
        """Return the places of a text's blocks, from its first block up to the first that is not cached."""
        cached = list(takewhile(self._places.__contains__, _keys(tokens)))
        # the first block becomes the most recently used: more texts share it, so it should stay longest
        for key in reversed(cached):
            self._places.move_to_end(key)
        self.lookups += len(tokens)
        self.hits += len(cached) * BLOCK
        return [self._places[key] for key in cached]

    def add(self, tokens: Sequence[int]) -> list[tuple[int, int]]:
        """Take in the full blocks of a text; return (number of the block, place) for each new one."""
        new: list[tuple[int, int]] = []
        keys = list(_keys(tokens))[: self.capacity]
        for number, key in reversed(list(enumerate(keys))):
            if key not in self._places:
                place = self._free_place()
                new.append((number, place))
                self._places[key] = place
            self._places.move_to_end(key)
        return new

    def clear(self) -> None:
        """Know of no block any more."""
        self._places.clear()

    def _free_place(self) -> int:
        if len(self._places) < self.capacity:
            return len(self._places)
        return self._places.popitem(last=False)[1]


def _keys(tokens: Sequence[int]) -> Iterator[int]:
    """The key of each full block."""
    key = 0
    for end in range(BLOCK, len(tokens) + 1, BLOCK):
        key = hash((key, *tokens[end - BLOCK : end]))
        yield key
