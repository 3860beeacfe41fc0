"""Which beginnings of texts have their keys and values kept: vLLM's prefix cache, with copies.

A block of tokens is known by its own tokens and all before them, so its key is the hash of both. Here a
block is a copy, made when a sequence has read its prompt and when it ends; a sequence that begins alike
gets a copy back.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence

from labkit.engine.scheduler import BLOCK


class PrefixIndex:
    """Places for up to `tokens` of cached text; where all are taken, the longest unused one is given anew.

    Attributes:
        hits, asked: tokens found, and tokens looked for, so far.
    """

    def __init__(self, tokens: int) -> None:
        self.places = tokens // BLOCK
        self.hits = self.asked = 0
        self._of: OrderedDict[int, int] = OrderedDict()  # hash of a block and all before it: its place

    def match(self, tokens: Sequence[int]) -> list[int]:
        """The places of the first blocks of a text that are cached, as far as they go without a gap."""
        found: list[int] = []
        for key in _keys(tokens):
            if key not in self._of:
                break
            found.append(self._of[key])
        # deepest first, so that the beginning, which more texts share, stays longest
        for key in reversed(list(_keys(tokens[: len(found) * BLOCK]))):
            self._of.move_to_end(key)
        self.asked += len(tokens)
        self.hits += len(found) * BLOCK
        return found

    def add(self, tokens: Sequence[int]) -> list[tuple[int, int]]:
        """Take in the full blocks of a text; returns (block of the text, place) of those that are new."""
        new: list[tuple[int, int]] = []
        keys = list(_keys(tokens))[: self.places]
        for number, key in reversed(list(enumerate(keys))):
            if key not in self._of:
                new.append((number, self._place()))
                self._of[key] = new[-1][1]
            self._of.move_to_end(key)
        return new

    def _place(self) -> int:
        if len(self._of) < self.places:
            return len(self._of)
        return self._of.popitem(last=False)[1]


def _keys(tokens: Sequence[int]) -> Iterator[int]:
    key = 0
    for end in range(BLOCK, len(tokens) + 1, BLOCK):
        key = hash((key, *tokens[end - BLOCK : end]))
        yield key
