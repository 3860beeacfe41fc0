"""Turns token ids into text as they come, and holds back what cannot be shown yet."""

import codecs
from collections.abc import Sequence
from typing import Protocol


class TokenBytes(Protocol):
    """What a detokenizer needs of a tokenizer."""

    def token_bytes(self, token_id: int) -> bytes:
        """Return the bytes of one token."""


class Detokenizer:
    """Makes the text of one sequence; its pieces together are what ``tokenizer.decode`` gives for all ids.

    It holds back the first bytes of an unfinished character, and text that may be the beginning of a stop
    string: with the stop string "END", "one EN" is shown as "one ", and "EN" follows if no "D" comes. Empty
    stop strings are ignored. `stopped` is True once a stop string came; the text ends before it.
    """

    def __init__(self, tokenizer: TokenBytes, stop: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._stop = tuple(filter(None, stop))
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self.stopped = False

    def push(self, token_id: int) -> str:
        """Return the text that this token makes readable, which may be empty; after a stop it is."""
        return self._readable(self._utf8.decode(self._tokenizer.token_bytes(token_id)))

    def flush(self) -> str:
        """Return the text that is held back, at the end; an unfinished character becomes U+FFFD."""
        text = self._readable(self._utf8.decode(b"", final=True)) + self._held
        self._held = ""
        return text

    def _readable(self, text: str) -> str:
        if self.stopped:
            return ""
        text = self._held + text
        places = [(text.find(stop), len(stop)) for stop in self._stop]
        # the stop string that ends first counts, as if the text came letter by letter: then it does not
        # matter how the text is cut into tokens
        stops = sorted((place + length, place) for place, length in places if place >= 0)
        self.stopped = bool(stops)
        keep = stops[0][1] if stops else len(text) - self._possible_stop(text)
        self._held = "" if stops else text[keep:]
        return text[:keep]

    def _possible_stop(self, text: str) -> int:
        """How many of the last characters may be the beginning of a stop string."""
        longest = max(map(len, self._stop), default=1) - 1
        sizes = range(min(longest, len(text)), 0, -1)
        return next((size for size in sizes if any(stop.startswith(text[-size:]) for stop in self._stop)), 0)
