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
    """The tokenizer of a model, as an engine needs it.

    A prompt is continued as it stands: no chat template is put around it. A start token comes first where the
    tokenizer adds one. Special tokens that the prompt spells out are read as such, so that a chat template
    can be written out by hand.

    A token's bytes are what it adds behind another one, since an answer stands behind its prompt: it is at
    the beginning of a text alone that SentencePiece leaves out the space of `▁`. Special tokens add none. So
    the text of an answer is `tokenizer.decode(prompt + answer, skip_special_tokens=True)` without that of the
    prompt; only for bytes that are not UTF-8 may the number of U+FFFD differ.

    Args:
        tokenizer: of Transformers, with a `tokenizers` backend (a "fast" one).
        size: how many ids the model knows.
        eos_ids: with which of them a text ends.
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
        self._known: dict[int, bytes] = {}
        # the first call may change settings of the tokenizer, which must not happen while a thread decodes
        self.prompt("a")

    def prompt(self, text: str) -> list[int]:
        """Return the ids to go on from; raises InvalidRequest where the model has none for this text."""
        ids: list[int] = self._tokenizer(text, verbose=False).input_ids
        if not ids:
            raise InvalidRequest("prompt: the model's tokenizer makes no token of it")
        if max(ids) >= self._size:
            token = self._inner.id_to_token(max(ids))
            raise InvalidRequest(f"prompt: the model does not know the token {token!r}")
        return ids

    def token_bytes(self, token_id: int) -> bytes:
        """Return the bytes of one token; none for a special one, and for ids that only pad the model."""
        if token_id not in self._known:
            self._known[token_id] = self._bytes(token_id)
        return self._known[token_id]

    def _bytes(self, token_id: int) -> bytes:
        token = self._inner.id_to_token(token_id)
        if token is None or token_id in self._special:
            return b""
        if self._byte_level:
            spelt = [BYTE_OF_LETTER.get(letter) for letter in token]
            # tokens that were added later need not be spelt in letters for bytes
            return token.encode() if None in spelt else bytes(cast(list[int], spelt))
        if self._byte_fallback and (byte := BYTE.fullmatch(token)):
            return bytes([int(byte[1], 16)])
        once, twice = self._inner.decode([token_id]), self._inner.decode([token_id, token_id])
        return str(twice[len(once) :]).encode()
