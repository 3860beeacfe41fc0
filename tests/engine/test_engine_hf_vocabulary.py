"""The vocabulary of a Hugging Face tokenizer: pieces join to what it decodes, and no prompt is cut."""

import random
from collections.abc import Callable
from typing import Any

import pytest
import tokenizers
from hf_models import PROMPTS, TEXTS, TOKENIZERS, byte_fallback, byte_level, fast, metaspace, word_endings
from tokenizers import normalizers

from labkit.engine.detokenize import Detokenizer
from labkit.engine.hf_vocabulary import HFVocabulary
from labkit.errors import InvalidRequest


@pytest.mark.parametrize("make", TOKENIZERS)
@pytest.mark.parametrize("beginning", ["Once upon", "said the"])
def test_an_answer_is_at_each_token_what_the_tokenizer_decodes(
    make: Callable[[], tokenizers.Tokenizer], beginning: str
) -> None:
    tokenizer = fast(make())
    vocabulary = HFVocabulary(tokenizer, len(tokenizer) + 3)
    # random bytes are not UTF-8, and how many U+FFFD they become is not defined
    whole = [n for n in range(len(tokenizer) + 3) if "\ufffd" not in tokenizer.decode([n])]
    written = [*TEXTS, *PROMPTS, "ö \n <é call> <0x41>", "hello world"]
    answers = [random.Random(seed).choices(whole, k=12) for seed in range(60)]
    answers += [tokenizer(text, add_special_tokens=False).input_ids for text in written]
    for prompt in ([*vocabulary.prompt(beginning)], [*vocabulary.prompt(beginning), 1], [0]):
        for ids in answers:
            check_streamed(tokenizer, vocabulary, prompt, ids)


def check_streamed(tokenizer: Any, vocabulary: HFVocabulary, prompt: list[int], ids: list[int]) -> None:
    """Push the ids one by one; what has come is always the whole decoded, but for an unfinished character."""
    detokenizer = Detokenizer(vocabulary, prompt=prompt)
    text = tokenizer.decode(prompt, skip_special_tokens=True)
    whole = tokenizer.decode(prompt + ids, skip_special_tokens=True)
    for count, token_id in enumerate(ids, 1):
        text += detokenizer.push(token_id)
        decoded = tokenizer.decode(prompt + ids[:count], skip_special_tokens=True)
        assert text == decoded or decoded.endswith("\ufffd"), (prompt, ids[:count])
        assert whole.startswith(text)
    assert text + detokenizer.flush() == whole


def test_the_end_of_a_word_is_a_space_before_the_next_one() -> None:
    tokenizer = fast(word_endings())
    vocabulary = HFVocabulary(tokenizer, len(tokenizer))
    detokenizer = Detokenizer(vocabulary, prompt=[0])
    ids = tokenizer.convert_tokens_to_ids(["he", "llo</w>", "wor", "ld</w>", "</s>"])
    assert [detokenizer.push(token_id) for token_id in ids] == ["he", "llo", " wor", "ld", ""]


@pytest.mark.parametrize("make", TOKENIZERS)
def test_special_tokens_are_spelt_in_stop_strings_and_not_in_the_text(
    make: Callable[[], tokenizers.Tokenizer],
) -> None:
    tokenizer = fast(make())
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_end|>"]})
    vocabulary = HFVocabulary(tokenizer, len(tokenizer))
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    was, fox, said = (tokenizer(text, add_special_tokens=False).input_ids for text in ("was", "fox", "said"))
    prompt, before = vocabulary.prompt("the"), [*was, 1, *fox]
    whole = tokenizer.decode(prompt + before, skip_special_tokens=True)
    for stop, hidden in (("<|im_end|>", 0), ("im_end", 0), ("x<|im", 1), ("<|im_end|></s>", 0)):
        detokenizer = Detokenizer(vocabulary, [stop], prompt)
        shown = "".join(map(detokenizer.push, [*before, end, 1, *said])) + detokenizer.flush()
        assert detokenizer.stopped
        assert tokenizer.decode(prompt, skip_special_tokens=True) + shown == whole[: len(whole) - hidden]
    detokenizer = Detokenizer(vocabulary, ["<|im_end|>s", "</s></s>"], prompt)
    shown = "".join(map(detokenizer.push, [*before, end, *fox, 1])) + detokenizer.flush()
    assert not detokenizer.stopped
    assert tokenizer.decode(prompt, skip_special_tokens=True) + shown == tokenizer.decode(
        prompt + before + fox, skip_special_tokens=True
    )


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


class Panic(BaseException):
    """As what a panic in Rust becomes: it is no `Exception`."""


def test_a_prompt_that_the_tokenizer_cannot_read_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    vocabulary = HFVocabulary(fast(metaspace()), 1000)
    assert vocabulary.prompt("a \ud800 fox") == vocabulary.prompt("a ? fox")

    def panics(*_: object, **__: object) -> None:
        raise Panic("no `None` here\nnote: run with RUST_BACKTRACE=1")

    monkeypatch.setattr(vocabulary, "_tokenizer", panics)
    with pytest.raises(InvalidRequest, match=r"^prompt: .* cannot read it: Panic: no `None` here$"):
        vocabulary.prompt("fox")
