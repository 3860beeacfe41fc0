"""Small Hugging Face models with random weights, and tokenizers of each kind for them."""

import re
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors

transformers: Any = pytest.importorskip("transformers", reason='needs pip install "labkit[hf]"')

TEXTS = [
    "Once upon a time there was a fox who lived under the hill, and the hill was green. ",
    "«Été», said the fox: the other one said 日本 and 🦊🦊, then   nothing.\n\nThe end.",
]
PROMPTS = ["Once upon a time", "the fox 日本 and the hill", "nothing", "said the other one: 🦊 then"]
CONTEXT = 64
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
    "initializer_range": 0.5,  # so large that the likeliest token is seldom the one before
}
SPECIAL = ["<s>", "</s>", "<unk>"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def bpe(alphabet: list[str], words: list[str], **options: Any) -> tokenizers.Tokenizer:
    """A tokenizer that knows these words and how they begin."""
    merges = list(dict.fromkeys((word[:end], word[end]) for word in words for end in range(1, len(word))))
    tokens = dict.fromkeys([*alphabet, *map("".join, merges)])
    inner = tokenizers.Tokenizer(models.BPE({token: n for n, token in enumerate(tokens)}, merges, **options))
    inner.add_special_tokens(SPECIAL)
    return inner


def byte_level() -> tokenizers.Tokenizer:
    """As GPT-2's: letters stand for bytes."""
    split = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words = [word for text in TEXTS for word, _ in split.pre_tokenize_str(text)]
    inner = bpe([*SPECIAL, *sorted(split.alphabet())], words)
    inner.pre_tokenizer = split
    inner.decoder = decoders.ByteLevel()
    inner.add_tokens(
        [AddedToken("<é call>", normalized=False)]
    )  # text that is not spelt in letters for bytes
    return inner


def byte_fallback() -> tokenizers.Tokenizer:
    """As Llama's: `▁` for spaces, bytes for letters that it does not know, a start token."""
    words = [word for text in TEXTS for word in re.findall("▁?[a-zO]+", text.replace(" ", "▁"))]
    letters = sorted({letter for word in words for letter in word})
    inner = bpe([*SPECIAL, *BYTES, *letters], words, byte_fallback=True, unk_token="<unk>")
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    spaces = decoders.Replace("▁", " ")
    strip = decoders.Strip(" ", 1, 0)
    inner.decoder = decoders.Sequence([spaces, decoders.ByteFallback(), decoders.Fuse(), strip])
    inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return inner


def metaspace() -> tokenizers.Tokenizer:
    """As those of SentencePiece's unigram models."""
    letters = sorted(set("▁" + "".join(TEXTS)))
    pieces = [*SPECIAL, *letters, "▁the", "▁fox", "▁▁", "ing", "ther"]
    inner = tokenizers.Tokenizer(models.Unigram([(piece, -1.0) for piece in pieces], unk_id=2))
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.decoder = decoders.Metaspace()
    inner.add_special_tokens(SPECIAL)
    return inner


def word_endings() -> tokenizers.Tokenizer:
    """As those of the first GPT: the last piece of a word ends in `</w>`."""
    words = [word for text in TEXTS for word in re.findall(r"\w+|[^\w\s]", text)]
    letters = sorted({letter for word in words for letter in word})
    pieces = [*letters, *(f"{letter}</w>" for letter in letters), "he", "llo</w>", "wor", "ld</w>", "</w>"]
    vocab = {piece: n for n, piece in enumerate([*SPECIAL, *pieces])}
    inner = tokenizers.Tokenizer(models.BPE(vocab, [], unk_token="<unk>", end_of_word_suffix="</w>"))
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.BPEDecoder()
    inner.add_special_tokens(SPECIAL)
    return inner


def word_pieces() -> tokenizers.Tokenizer:
    """As BERT's: a piece that does not begin a word begins with `##`, and no space stands before a comma."""
    words = [word for text in TEXTS for word in re.findall(r"\w+|[^\w\s]", text)]
    letters = sorted({letter for word in words for letter in word})
    pieces = [*letters, *(f"##{letter}" for letter in letters), "fox", "##ing", "n't", "do", "'", "."]
    vocab = {piece: n for n, piece in enumerate(dict.fromkeys([*SPECIAL, *pieces]))}
    inner = tokenizers.Tokenizer(models.WordPiece(vocab, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece()
    inner.add_special_tokens(SPECIAL)
    return inner


def words() -> tokenizers.Tokenizer:
    """Whole words; without a decoder, spaces stand between all tokens."""
    vocab = {word: n for n, word in enumerate([*SPECIAL, *dict.fromkeys(" ".join(TEXTS).split())])}
    inner = tokenizers.Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.add_special_tokens(SPECIAL)
    return inner


def repeated() -> tokenizers.Tokenizer:
    """As those of speech: a token that is repeated counts once, and `|` stands between words."""
    inner = words()
    inner.add_tokens(["<pad>", "|"])
    inner.decoder = decoders.CTC()
    return inner


def nothing_stripped() -> tokenizers.Tokenizer:
    """As Gemma's: `▁` for spaces, bytes for letters that it does not know, and nothing is left out."""
    inner = byte_fallback()
    inner.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return inner


TOKENIZERS = [
    byte_level,
    byte_fallback,
    nothing_stripped,
    metaspace,
    word_endings,
    word_pieces,
    words,
    repeated,
]


def fast(inner: tokenizers.Tokenizer) -> Any:
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def save(folder: Path, model: Any, tokenizer: Any = None) -> Path:
    model.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    return folder


def model_of(kind: str, tokenizer: Any) -> Any:
    """A model of a kind, with random weights that never choose a special token or a byte."""
    torch.manual_seed(2)
    size = len(tokenizer)
    config = transformers.AutoConfig.for_model(kind, vocab_size=size, eos_token_id=1, bos_token_id=0, **SIZES)
    if kind == "gpt2":
        config.n_inner = 48
    model = transformers.AutoModelForCausalLM.from_config(config)
    for token in [*SPECIAL, *BYTES]:
        if token in tokenizer.get_vocab():
            model.get_output_embeddings().weight.data[tokenizer.convert_tokens_to_ids(token)] = 0
    return model.eval()
