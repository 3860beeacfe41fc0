"""The tokenizer of a Hugging Face model as an engine needs it: prompts in, bytes of each token out."""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, cast

from transformers.convert_slow_tokenizer import bytes_to_unicode

from labkit.errors import InvalidRequest, in_one_line

BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
CACHED = 1 << 18
"""Tokens whose bytes are kept: the largest vocabularies have about as many."""
BYTE_OF_LETTER: dict[str, int] = {
    letter: byte
    for byte, letter in bytes_to_unicode().items()  # type: ignore[no-untyped-call]
}


class HFVocabulary:
    """Turns prompts into ids, and ids into bytes.

    The model continues the prompt as it stands, without a chat template around it. A start token comes first
    if the tokenizer adds one. Special tokens in the prompt's text are read as such, so a chat template can be
    written out by hand.

    A token's bytes are what it adds to the text before it, however the tokenizer's decoder joins tokens.
    Special tokens add nothing. So the text of an answer is, at each of its tokens, what
    `tokenizer.decode(prompt + answer, skip_special_tokens=True)` gives after the prompt's text. Only the
    number of U+FFFD may differ, for bytes that are not UTF-8. Where a tokenizer cleans up spaces at last,
    that is left out, since it changes what was shown already.

    Args:
        tokenizer: of Transformers, with a `tokenizers` backend (a "fast" one).
        size: how many ids the model knows.
        eos_ids: the ids that end a text.
    """

    def __init__(self, tokenizer: Any, size: int, eos_ids: frozenset[int] = frozenset()) -> None:
        self.eos_ids = eos_ids
        self._size = size
        self._tokenizer = tokenizer
        self._inner = tokenizer.backend_tokenizer
        decoder = str(self._inner.decoder)
        self._byte_level, self._byte_fallback = "ByteLevel(" in decoder, "ByteFallback(" in decoder
        # BPE's marks the end of a word with a space if another follows, and CTC's leaves out what is repeated
        self._joins = "BPEDecoder(" in decoder or "CTC(" in decoder
        added = tokenizer.added_tokens_decoder.items()
        special = {token_id: token.content for token_id, token in added if token.special}
        unknown = {token_id: "" for token_id in range(size) if self._inner.id_to_token(token_id) is None}
        self.silent: Mapping[int, str] = {**unknown, **special}
        self._bytes = lru_cache(CACHED)(self._added)
        # the first call may change settings of the tokenizer, which must not happen while a thread decodes
        self.prompt("a")

    def prompt(self, text: str) -> list[int]:
        """Return the ids of a prompt.

        Raises:
            InvalidRequest: the model has no ids for this text.
        """
        ids = self._encoded(text.encode("utf-8", "replace").decode("utf-8"))  # without lone surrogates
        if not ids:
            raise InvalidRequest("prompt: the model's tokenizer makes no token of it")
        if max(ids) >= self._size:
            token = self._inner.id_to_token(max(ids))
            raise InvalidRequest(f"prompt: the model does not know the token {token!r}")
        return ids

    def _encoded(self, text: str) -> list[int]:
        try:
            return list(self._tokenizer(text, verbose=False).input_ids)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a panic in its Rust is no Exception
            problem = f"prompt: the model's tokenizer cannot read it: {in_one_line(error)}"
            raise InvalidRequest(problem) from None

    def token_bytes(self, token_id: int, after: int | None = None) -> bytes:
        """Return the bytes that a token adds to a text; none if it is special or only pads the vocabulary.

        `after` is the last token before it that is not `silent`; None at the beginning of a text.
        """
        # most decoders treat only the first token in another way, so any token may stand for the one before
        return self._bytes(token_id, after if self._joins or after is None else token_id)

    def _added(self, token_id: int, after: int | None) -> bytes:
        if token_id in self.silent:
            return b""
        token = self._inner.id_to_token(token_id)
        if self._byte_level:
            values = [BYTE_OF_LETTER.get(letter) for letter in token]
            # a token that was added later may have letters that do not stand for bytes
            return token.encode() if None in values else bytes(cast(list[int], values))
        if self._byte_fallback and (byte := BYTE.fullmatch(token)):
            return bytes([int(byte[1], 16)])
        before = [] if after is None else [after]
        text, longer = self._inner.decode(before), self._inner.decode([*before, token_id])
        return str(longer[len(text) :]).encode()
