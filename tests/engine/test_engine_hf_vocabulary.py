"""The vocabulary of a Hugging Face tokenizer: pieces join to what it decodes, and no prompt is cut."""

import random
from collections.abc import Callable

import pytest
import tokenizers
from hf_models import PROMPTS, TEXTS, byte_fallback, byte_level, fast, metaspace
from tokenizers import normalizers

from labkit.engine.hf_vocabulary import HFVocabulary
from labkit.errors import InvalidRequest


@pytest.mark.parametrize("make", [byte_level, byte_fallback, metaspace])
def test_the_pieces_of_an_answer_are_what_the_tokenizer_decodes(
    make: Callable[[], tokenizers.Tokenizer],
) -> None:
    tokenizer = fast(make())
    vocabulary = HFVocabulary(tokenizer, len(tokenizer))
    prompt = vocabulary.prompt("Once upon")
    start = tokenizer.decode(prompt, skip_special_tokens=True)
    # random bytes are not UTF-8, and how many U+FFFD they become is not defined
    whole = [n for n in range(len(tokenizer)) if "\ufffd" not in tokenizer.decode([n])]
    answers = [random.Random(seed).choices(whole, k=30) for seed in range(300)]
    written = [*TEXTS, *PROMPTS, "ö \n <é call> <0x41>"]
    answers += [tokenizer(text, add_special_tokens=False).input_ids for text in written]
    for ids in answers:
        pieces = b"".join(vocabulary.token_bytes(token_id) for token_id in ids)
        assert start + pieces.decode() == tokenizer.decode(prompt + ids, skip_special_tokens=True)


def test_special_tokens_and_ids_beyond_the_tokenizer_add_no_text() -> None:
    tokenizer = fast(byte_level())
    vocabulary = HFVocabulary(tokenizer, 1000)
    assert [vocabulary.token_bytes(token_id) for token_id in (0, 1, 2, 999)] == [b""] * 4


def test_a_prompt_begins_as_the_tokenizer_has_it_and_may_spell_special_tokens_out() -> None:
    plain, started = (HFVocabulary(fast(make()), 1000) for make in (byte_level, byte_fallback))
    assert started.prompt("fox")[0] == 0 and started.prompt("fox").count(0) == 1
    assert 0 not in plain.prompt("fox")
    assert plain.prompt("fox</s>")[-1] == 1


def test_a_tokenizer_that_truncates_does_not_cut_a_prompt() -> None:
    inner = byte_level()
    inner.enable_truncation(4)
    vocabulary = HFVocabulary(fast(inner), 1000)
    # at once, since to change a tokenizer is an error while another thread uses it
    assert vocabulary._inner.truncation is None
    assert len(vocabulary.prompt("word " * 50)) > 50


def test_a_prompt_without_a_token_that_the_model_knows_is_refused() -> None:
    tokenizer = fast(byte_level())
    with pytest.raises(InvalidRequest, match="'<é call>'"):
        HFVocabulary(tokenizer, len(tokenizer) - 1).prompt("fox <é call>")
    vocabulary = HFVocabulary(fast(metaspace()), 1000)
    vocabulary._inner.normalizer = normalizers.Replace("x", "")
    with pytest.raises(InvalidRequest, match="no token"):
        vocabulary.prompt("xx")
