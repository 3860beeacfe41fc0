"""The tokenizer of a Hugging Face model as an engine needs it: prompts in, bytes of each token out."""

import re
from typing import Any, cast

from transformers.convert_slow_tokenizer import bytes_to_unicode

from labkit.errors import InvalidRequest

BYTE = re.compile(r"<0x([0-9A-F]{2})>")
BYTE_OF_LETTER: dict[str, int] = {
    letter: byte
    for byte, letter in bytes_to_unicode().items()  # type: ignore[no-untyped-call]
}


class HFVocabulary:
    """Turns prompts into ids, and ids into bytes.

    The model continues the prompt as it stands, without a chat template around it. A start token comes first
    if the tokenizer adds one. Special tokens in the prompt's text are read as such, so a chat template can be
    written out by hand.

    A token's bytes are what it adds after another token, because an answer follows its prompt. (SentencePiece
    leaves out the space of `▁` only at the beginning of a text.) Special tokens add nothing. So the text of
    an answer is `tokenizer.decode(prompt + answer, skip_special_tokens=True)` without the prompt's text. Only
    the number of U+FFFD may differ, for bytes that are not UTF-8.

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
        added = tokenizer.added_tokens_decoder.items()
        self._special = {token_id for token_id, token in added if token.special}
        self._cache: dict[int, bytes] = {}
        # the first call may change settings of the tokenizer, which must not happen while a thread decodes
        self.prompt("a")

    def prompt(self, text: str) -> list[int]:
        """Return the ids of a prompt.

        Raises:
            InvalidRequest: the model has no ids for this text.
        """
        ids: list[int] = self._tokenizer(text, verbose=False).input_ids
        if not ids:
            raise InvalidRequest("prompt: the model's tokenizer makes no token of it")
        if max(ids) >= self._size:
            token = self._inner.id_to_token(max(ids))
            raise InvalidRequest(f"prompt: the model does not know the token {token!r}")
        return ids

    def token_bytes(self, token_id: int) -> bytes:
        """Return the bytes of a token; none if it is special, or only pads the model's vocabulary."""
        if token_id not in self._cache:
            self._cache[token_id] = self._bytes(token_id)
        return self._cache[token_id]

    def _bytes(self, token_id: int) -> bytes:
        token = self._inner.id_to_token(token_id)
        if token is None or token_id in self._special:
            return b""
        if self._byte_level:
            values = [BYTE_OF_LETTER.get(letter) for letter in token]
            # a token that was added later may have letters that do not stand for bytes
            return token.encode() if None in values else bytes(cast(list[int], values))
        if self._byte_fallback and (byte := BYTE.fullmatch(token)):
            return bytes([int(byte[1], 16)])
        once, twice = self._inner.decode([token_id]), self._inner.decode([token_id, token_id])
        return str(twice[len(once) :]).encode()
