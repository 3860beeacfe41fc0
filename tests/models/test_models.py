"""The text model: its stories, its tokenizer, its cache, its shipped weights and how they are made."""

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from labkit.models import stories, train
from labkit.models.ragged import KVPool, Part, step
from labkit.models.text import DEFAULT_WEIGHTS, TextModel
from labkit.models.tokenizer import Tokenizer

torch.set_num_threads(1)
MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def model() -> TextModel:
    return TextModel.load()


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.load()


def without_cache(model: TextModel, ids: list[int], steps: int) -> list[int]:
    """Greedy decoding which reads everything again for each token."""
    ids = list(ids)
    for _ in range(steps):
        with torch.inference_mode():
            ids.append(int(model.all_logits(torch.tensor([ids]))[-1].argmax()))
    return ids


def with_cache(model: TextModel, ids: list[int], steps: int, prefill: int) -> list[int]:
    """Greedy decoding which prefills in pieces of ``prefill`` tokens and then goes on one by one."""
    pool, ids = KVPool(model.config, slots=1), list(ids)
    for at in range(0, len(ids), prefill):
        logits = step(model, pool, [Part(0, at, ids[at : at + prefill])])
    for _ in range(steps):
        ids.append(int(logits.argmax()))
        logits = step(model, pool, [Part(0, len(ids) - 1, ids[-1:])])
    return ids


@pytest.mark.parametrize("prefill", [1, 3, 100])
@pytest.mark.parametrize("prompt", ["Once upon a time", "One morning, Mia", "?"])
def test_cache_changes_no_token(model: TextModel, tokenizer: Tokenizer, prompt: str, prefill: int) -> None:
    ids = tokenizer.encode(prompt)
    assert with_cache(model, ids, 60, prefill) == without_cache(model, ids, 60)


def test_rows_of_a_batch_do_not_see_each_other(model: TextModel) -> None:
    ids = torch.randint(100, (2, 20), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        both, second = model.all_logits(ids)[20:], model.all_logits(ids[1:])
    torch.testing.assert_close(both, second)


def test_missing_weights_name_the_file_and_the_command(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"text\.safetensors is missing.*python -m labkit\.models\.train"
    ):
        TextModel.load(tmp_path)
    with pytest.raises(
        FileNotFoundError, match=r"tokenizer\.json is missing.*python -m labkit\.models\.train"
    ):
        Tokenizer.load(tmp_path / "tokenizer.json")


def test_shipped_model_writes_grammatical_stories(model: TextModel, tokenizer: Tokenizer) -> None:
    report = train.examine(model, tokenizer, seed=5, samples=40, minutes=0, train_loss=0)
    assert report.grammatical >= 0.9
    assert report.keeps_hero >= 0.5


@pytest.mark.parametrize("name", ["Mia", "Leo"])
def test_shipped_model_writes_about_who_was_asked(model: TextModel, tokenizer: Tokenizer, name: str) -> None:
    generator = torch.Generator().manual_seed(2)
    request = f"Tell me a story about {name}.\n"
    texts = [train.write(model, tokenizer, request, generator) for _ in range(10)]
    assert sum(name in text.removeprefix(request) for text in texts) >= 8


def test_shipped_files_are_small_and_complete() -> None:
    sizes = {path.name: path.stat().st_size for path in DEFAULT_WEIGHTS.iterdir()}
    assert sizes.keys() >= {"text.safetensors", "tokenizer.json", "MODEL_CARD.md"}
    assert sum(sizes.values()) < 10 * MEGABYTE


def test_training_twice_gives_the_same_files(tmp_path: Path) -> None:
    reports = [train.train(10, 200, seed=3, out=tmp_path / name, samples=2) for name in "ab"]
    assert replace(reports[0], minutes=0) == replace(reports[1], minutes=0)
    assert reports[0].held_out_loss < 6.6  # ln 1024 = 6.9 is a model that knows nothing
    for file in ("text.safetensors", "tokenizer.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_interrupted_training_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "model_card", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train.train(1, 50, seed=0, out=tmp_path, samples=1)
    assert list(tmp_path.iterdir()) == []


def test_every_story_is_grammatical_and_keeps_its_cast() -> None:
    texts = list(stories.corpus(400, seed=9))
    wrong = [part for text in texts for part in stories.sentences(text) if not stories.is_grammatical(part)]
    assert wrong == []
    assert [text for text in texts if not stories.keeps_its_cast(text)] == []
    assert all(6 <= len(stories.sentences(text.split("\n")[-1])) <= 8 for text in texts)


def test_cast_of_a_story_is_of_different_kinds() -> None:
    for text in stories.corpus(400, seed=4):
        cast: dict[str, str] = {}
        for part in stories.sentences(text):
            cast |= stories.parse(part) or {}
        assert len(set(cast.values())) == len(cast), text


def test_stories_repeat_by_seed_and_differ_otherwise() -> None:
    texts = list(stories.corpus(300, seed=1))
    assert texts == list(stories.corpus(300, seed=1))
    assert texts[0] == stories.story(random.Random(1))
    assert len(set(texts)) == 300
    begin = sum(text.split("\n")[-1].startswith("Once upon a time") for text in texts)
    assert 90 < begin < 180


@pytest.mark.parametrize(
    "sentence",
    [
        "Mia went home the.",
        "the farmer let them in and gave them soup.",
        "They looked under the bench and over the gate.",
        "Mia went home happy",
        "One warm morning, Mia met Mia at the park.",  # a friend has another name
        "But Leo forgot the time, and it all burnt. Smoke",
        "“I’m afraid of the dark,” said.",
        "They pulled at the red kite until Leo began to cry and cry.",
        "It was Tom’s birthday, so her began to make soup.",
        "",
    ],
)
def test_other_sentences_are_not_grammatical(sentence: str) -> None:
    assert not stories.is_grammatical(sentence)


@pytest.mark.parametrize(
    "text",
    [
        "Mia sat down and sighed. Leo sat down and sighed.",
        "Mia sat down and sighed. He thought of Grandma and ran on.",
        "But one day, her red kite was gone. There, under the bench, lay the blue kite!",
    ],
)
def test_a_changed_cast_is_noticed(text: str) -> None:
    assert all(map(stories.is_grammatical, stories.sentences(text)))
    assert not stories.keeps_its_cast(text)


def test_sentences_end_outside_quotation_marks() -> None:
    text = "Tell me a story about Mia.\n“Oh no! Help!” cried Mia. “Where is it?” asked Zoë. It was gone…"
    parts = [
        "Tell me a story about Mia.",
        "“Oh no! Help!” cried Mia.",
        "“Where is it?” asked Zoë.",
        "It was gone…",
    ]
    assert stories.sentences(text) == parts


@given(st.text())
def test_tokenizer_keeps_any_text(text: str) -> None:
    tokenizer = Tokenizer.load()
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert b"".join(map(tokenizer.token_bytes, ids)) == text.encode()
    assert tokenizer.eos_id not in ids


def test_tokenizer_never_reads_an_end_token_from_text(tokenizer: Tokenizer) -> None:
    text = "a<|end|>b<|end|>"
    assert tokenizer.eos_id not in tokenizer.encode(text)
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.token_bytes(tokenizer.eos_id) == b""


def test_stories_need_characters_cut_in_two(tokenizer: Tokenizer) -> None:
    pieces = {
        tokenizer.token_bytes(i) for text in stories.corpus(300, seed=2) for i in tokenizer.encode(text)
    }
    assert any(piece.decode("utf-8", "replace") != piece.decode("utf-8", "ignore") for piece in pieces)


def test_config_of_the_shipped_model(model: TextModel, tokenizer: Tokenizer) -> None:
    assert model.config.vocab_size == tokenizer.vocab_size
    assert model.config.context == 1024
    assert {p.dtype for p in model.parameters()} == {torch.float32}
