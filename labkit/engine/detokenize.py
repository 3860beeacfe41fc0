"""Turns token ids into text as they come, and holds back what cannot be shown yet."""

import codecs
from collections.abc import Mapping, Sequence
from typing import Protocol


class TokenBytes(Protocol):
    """What a detokenizer needs of a tokenizer."""

    silent: Mapping[int, str]
    """The tokens that add nothing to a text, such as its end, and how they are spelt."""

    def token_bytes(self, token_id: int, after: int | None = None) -> bytes:
        """Return the bytes that a token adds to a text.

        `after` is the token before it, of those that are not `silent`; None at the beginning of a text.
        """


class Detokenizer:
    """Makes the text of one sequence; its pieces together are what ``tokenizer.decode`` gives for all ids.

    It holds back the first bytes of an unfinished character, and text that may be the beginning of a stop
    string: with the stop string "END", "one EN" is shown as "one ", and "EN" follows if no "D" comes. Empty
    stop strings are ignored. `stopped` is True once a stop string came; the text ends before it.

    A stop string is looked for in the text with its silent tokens spelt out, which the text itself does not
    show: "<|im_end|>" or "\\n</s>" stop where the model means them to.

    Args:
        stop: the stop strings.
        prompt: the tokens before the text, of which no stop string is a part.
    """

    def __init__(self, tokenizer: TokenBytes, stop: Sequence[str] = (), prompt: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._silent = tokenizer.silent
        self._stop = tuple(filter(None, stop))
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._last = next((token for token in reversed(prompt) if token not in self._silent), None)
        self._held = ""
        self._hidden: set[int] = set()  # which of the held characters spell a silent token
        self.stopped = False

    def push(self, token_id: int) -> str:
        """Return the text that this token makes readable, which may be empty; after a stop it is."""
        if token_id in self._silent:
            return self._readable(self._silent[token_id], hidden=True)
        added = self._tokenizer.token_bytes(token_id, self._last)
        self._last = token_id
        return self._readable(self._utf8.decode(added))

    def flush(self) -> str:
        """Return the text that is held back, at the end; an unfinished character becomes U+FFFD."""
        text = self._readable(self._utf8.decode(b"", final=True))
        held, self._held = self._held, ""
        return text + self._shown(held)

    def _readable(self, text: str, hidden: bool = False) -> str:
        if self.stopped:
            return ""
        if not self._stop:
            return "" if hidden else text
        start = len(self._held)
        if hidden:
            self._hidden.update(range(start, start + len(text)))
        text = self._held + text
        places = [(text.find(stop), len(stop)) for stop in self._stop]
        # the stop string that ends first counts, as if the text came letter by letter: then it does not
        # matter how the text is cut into tokens
        stops = sorted((place + length, place) for place, length in places if place >= 0)
        self.stopped = bool(stops)
        keep = stops[0][1] if stops else len(text) - self._possible_stop(text)
        self._held = "" if stops else text[keep:]
        return self._shown(text[:keep])

    def _shown(self, text: str) -> str:
        """The text, which leaves the held characters, without those that spell silent tokens."""
        if not self._hidden:
            return text
        shown = "".join(letter for place, letter in enumerate(text) if place not in self._hidden)
        self._hidden = {place - len(text) for place in self._hidden if place >= len(text)}
        return shown

    def _possible_stop(self, text: str) -> int:
        """How many of the last characters may be the beginning of a stop string."""
        longest = max(map(len, self._stop), default=1) - 1
        sizes = range(min(longest, len(text)), 0, -1)
        return next((size for size in sizes if any(stop.startswith(text[-size:]) for stop in self._stop)), 0)
