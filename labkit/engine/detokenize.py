"""Turns token ids into text as they come, holding back what cannot be shown yet."""

import codecs
from collections.abc import Sequence
from typing import Protocol


class TokenBytes(Protocol):
    """What a detokenizer needs of a tokenizer."""

    def token_bytes(self, token_id: int) -> bytes:
        """Return the bytes of one token."""


class Detokenizer:
    """The text of one sequence; its pieces joined are what ``tokenizer.decode`` gives for the whole.

    Two things are held back: the first bytes of an unfinished character, and text that may turn out to be the
    beginning of a stop string. Empty stop strings are ignored.
    """

    def __init__(self, tokenizer: TokenBytes, stop: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._stop = tuple(filter(None, stop))
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self.stopped = False

    def push(self, token_id: int) -> str:
        """Return the text that became readable with this token, perhaps none; none at all once stopped."""
        return self._readable(self._utf8.decode(self._tokenizer.token_bytes(token_id)))

    def flush(self) -> str:
        """Return what is still held back at the end; an unfinished character comes as U+FFFD."""
        text = self._readable(self._utf8.decode(b"", final=True)) + self._held
        self._held = ""
        return text

    def _readable(self, text: str) -> str:
        if self.stopped:
            return ""
        text = self._held + text
        places = [(text.find(stop), len(stop)) for stop in self._stop]
        # the first to end, as if the text came letter by letter: so the cut into tokens changes nothing
        found = sorted((place + length, place) for place, length in places if place >= 0)
        self.stopped = bool(found)
        keep = found[0][1] if found else len(text) - self._possible_stop(text)
        self._held = "" if found else text[keep:]
        return text[:keep]

    def _possible_stop(self, text: str) -> int:
        """How many of the last characters are the beginning of a stop string."""
        longest = max(map(len, self._stop), default=1) - 1
        sizes = range(min(longest, len(text)), 0, -1)
        return next((size for size in sizes if any(stop.startswith(text[-size:]) for stop in self._stop)), 0)
