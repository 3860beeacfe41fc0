"""Turns text into token ids and back: byte-level BPE, so any Unicode text can be encoded.

Byte-level BPE starts from the 256 bytes (Radford et al., 2019, "Language Models are Unsupervised Multitask
Learners"), so a token may hold only a part of a character: see ``labkit.engine.detokenize``.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

END = "<|end|>"
TOKENIZER_FILE = "tokenizer.json"
DEFAULT_TOKENIZER = Path(__file__).with_name("weights") / TOKENIZER_FILE


class Tokenizer:
    """A trained byte-level BPE tokenizer; token ids run from 0 to ``vocab_size - 1``."""

    def __init__(self, inner: tokenizers.Tokenizer) -> None:
        self._inner = inner
        self.vocab_size: int = inner.get_vocab_size()
        ids = inner.get_vocab()
        self.eos_id: int = ids[END]
        self.eos_ids = frozenset({self.eos_id})
        self.silent: Mapping[int, str] = {self.eos_id: END}
        byte_of = _byte_of_letter()
        tokens = sorted(ids, key=lambda token: ids[token])
        self._bytes = [b"" if t == END else bytes(byte_of[letter] for letter in t) for t in tokens]

    @classmethod
    def load(cls, path: Path = DEFAULT_TOKENIZER) -> "Tokenizer":
        """Read a ``tokenizer.json``; raises FileNotFoundError if there is none."""
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing; make it with: python -m labkit.models.train")
        return cls(tokenizers.Tokenizer.from_file(str(path)))

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> "Tokenizer":
        """Learn the most frequent byte pairs of some texts."""
        inner = tokenizers.Tokenizer(models.BPE())
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        inner.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[END],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        inner.train_from_iterator(texts, trainer)
        return cls(inner)

    def save(self, path: Path) -> None:
        """Write ``tokenizer.json``."""
        self._inner.save(str(path))

    def encode(self, text: str) -> list[int]:
        """Return the token ids of any Unicode text, without a start or end token.

        Lone surrogates, which UTF-8 cannot hold, become "?"; "<|end|>" in a text is text.
        """
        plain = text.encode("utf-8", "replace").decode("utf-8")
        ids: list[int] = []
        for index, part in enumerate(plain.split(END)):
            if index:
                ids += self._inner.encode(END[:1]).ids + self._inner.encode(END[1:]).ids
            ids += self._inner.encode(part).ids
        return ids

    def prompt(self, text: str) -> list[int]:
        """Return the ids of a prompt after an end token, because a text follows another one in training."""
        return [self.eos_id, *self.encode(text)]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids; bytes that are not UTF-8 become U+FFFD."""
        return b"".join(self._bytes[token_id] for token_id in ids).decode("utf-8", "replace")

    def token_bytes(self, token_id: int, after: int | None = None) -> bytes:
        """Return the bytes of one token, the same `after` any other; none for the end token."""
        return self._bytes[token_id]


def _byte_of_letter() -> dict[str, int]:
    """Byte-level BPE writes each byte as a printable letter: itself where printable, else from U+0100 on."""
    spans = (("!", "~"), ("¡", "¬"), ("®", "ÿ"))
    printable = [code for first, last in spans for code in range(ord(first), ord(last) + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}
