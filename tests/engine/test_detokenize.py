"""The detokenizer: it loses no text, shows none too early, and finds stop strings however they are cut."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labkit.engine.detokenize import Detokenizer
from labkit.models.tokenizer import Tokenizer

TOKENIZER = Tokenizer.load()


class PieceTokenizer:
    """A stand-in tokenizer: token n is the n-th piece of a list."""

    def __init__(self, *pieces: str | bytes, silent: Mapping[int, str] | None = None) -> None:
        self.silent: Mapping[int, str] = silent or {}
        self.pieces = [piece.encode() if isinstance(piece, str) else piece for piece in pieces]

    def token_bytes(self, token_id: int, after: int | None = None) -> bytes:
        return self.pieces[token_id]


def push_all(stop: Sequence[str], *pieces: str | bytes) -> tuple[list[str], Detokenizer]:
    detokenizer = Detokenizer(PieceTokenizer(*pieces), stop)
    return [detokenizer.push(token_id) for token_id in range(len(pieces))], detokenizer


@given(st.lists(st.integers(0, TOKENIZER.vocab_size - 1)))
def test_pieces_of_any_ids_join_to_the_decoded_whole(ids: list[int]) -> None:
    detokenizer = Detokenizer(TOKENIZER)
    assert "".join(map(detokenizer.push, ids)) + detokenizer.flush() == TOKENIZER.decode(ids)


@given(st.text())
def test_pieces_of_any_text_join_to_the_text(text: str) -> None:
    detokenizer = Detokenizer(TOKENIZER)
    pieces = [detokenizer.push(token_id) for token_id in TOKENIZER.encode(text)]
    assert "".join(pieces) == text
    assert detokenizer.flush() == ""


@given(st.text("ab"), st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3), st.data())
def test_text_ends_before_the_first_stop_string_however_it_is_cut(
    text: str, stop: list[str], data: st.DataObject
) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)))) | {0, len(text)})
    pieces, detokenizer = push_all(stop, *(text[start:end] for start, end in pairwise(cuts)))
    ends = sorted((text.index(word) + len(word), text.index(word)) for word in stop if word in text)
    assert detokenizer.stopped == bool(ends)
    assert "".join(pieces) + detokenizer.flush() == (text[: ends[0][1]] if ends else text)


def test_unfinished_character_waits_for_its_bytes() -> None:
    pieces, detokenizer = push_all((), b"Zo", b"\xc3", b"\xab!", b"\xf0\x9f", b"\x91", b"\x8d")
    assert pieces == ["Zo", "", "ë!", "", "", "👍"]
    assert detokenizer.flush() == ""


def test_unfinished_character_at_the_end_becomes_one_mark() -> None:
    pieces, detokenizer = push_all((), "a", b"\xf0\x9f\x91")
    assert pieces == ["a", ""]
    assert (detokenizer.flush(), detokenizer.flush()) == ("\ufffd", "")


def test_broken_bytes_do_not_hold_back_the_text_after_them() -> None:
    assert push_all((), b"\xc3", "a", b"\xff")[0] == ["", "\ufffda", "\ufffd"]


def test_stop_string_split_over_tokens() -> None:
    pieces, detokenizer = push_all(["END"], "one E", "N", "D two", "three")
    assert pieces == ["one ", "", "", ""]
    assert detokenizer.stopped
    assert detokenizer.flush() == ""


def test_a_false_beginning_is_given_back() -> None:
    pieces, detokenizer = push_all(["END"], "E", "N", "T", "EN")
    assert pieces == ["", "", "ENT", ""]
    assert not detokenizer.stopped
    assert detokenizer.flush() == "EN"


def test_overlapping_beginnings() -> None:
    pieces, detokenizer = push_all(["aab"], "a", "a", "a", "b")
    assert pieces == ["", "", "a", ""]
    assert detokenizer.stopped


@pytest.mark.parametrize("cut", [["xab", "c", "d"], ["xabcd"], ["x", "a", "bcd"]])
def test_first_stop_string_to_end_wins_however_the_text_is_cut(cut: list[str]) -> None:
    pieces, detokenizer = push_all(["abcd", "bc"], *cut)
    assert "".join(pieces) == "xa"
    assert detokenizer.stopped


def test_stop_at_the_first_token() -> None:
    pieces, detokenizer = push_all(["."], ".", "a")
    assert pieces == ["", ""]
    assert detokenizer.stopped


def test_stop_string_of_several_bytes() -> None:
    pieces, detokenizer = push_all(["ë"], b"Zo", b"\xc3", b"\xabx")
    assert pieces == ["Zo", "", ""]
    assert detokenizer.stopped


SILENT = {0: "</s>", 1: "<|end|>", 2: ""}


def push_spelt(stop: Sequence[str], *tokens: str | int) -> tuple[str, Detokenizer]:
    """What is shown of text and of the numbers of silent tokens."""
    pieces = ["", "", "", *(token for token in tokens if isinstance(token, str))]
    detokenizer = Detokenizer(PieceTokenizer(*pieces, silent=SILENT), stop)
    ids = [token if isinstance(token, int) else pieces.index(token) for token in tokens]
    return "".join(map(detokenizer.push, ids)), detokenizer


@pytest.mark.parametrize(
    ("stop", "tokens", "shown"),
    [
        ("</s>", ["a", 0, "b"], "a"),
        ("<|end|>", ["a", 0, "b", 1, "c"], "ab"),
        ("b\n</s>", ["a", "b", "\n", 0], "a"),
        ("</s>b", ["a", 0, "b", "c"], "a"),
        ("</s><|end|>", ["a", 0, 2, 1], "a"),
        ("/s><|", ["a", 0, 1], "a"),
        ("b", ["a", 0, "b"], "a"),
    ],
)
def test_a_stop_string_may_spell_silent_tokens(stop: str, tokens: list[str | int], shown: str) -> None:
    text, detokenizer = push_spelt([stop], *tokens)
    assert (text, detokenizer.flush(), detokenizer.stopped) == (shown, "", True)


def test_silent_tokens_that_may_begin_a_stop_string_are_not_given_back() -> None:
    text, detokenizer = push_spelt(["</s></s></s>", "b</s>c"], "a", 0, "b", 0, 0, "d", "b", 0)
    assert text == "abd"
    assert (detokenizer.flush(), detokenizer.flush(), detokenizer.stopped) == ("b", "", False)
    assert push_spelt([], "a", 0, "b", 1)[0] == "ab"


def test_the_spelling_of_silent_tokens_is_not_kept_for_ever() -> None:
    _, detokenizer = push_spelt(["</s><|end|>", "b</s>c"], "a", *[0] * 1000, "b", *[0] * 1000)
    assert len(detokenizer._held) <= 11 and len(detokenizer._hidden) <= 11


@pytest.mark.parametrize("stop", [(), ("",)])
def test_without_a_stop_string_nothing_stops(stop: tuple[str, ...]) -> None:
    pieces, detokenizer = push_all(stop, "a", "", "b")
    assert pieces == ["a", "", "b"]
    assert not detokenizer.stopped


def test_a_stop_string_completed_by_the_broken_end() -> None:
    pieces, detokenizer = push_all(["\ufffd"], "a", b"\xc3")
    assert pieces == ["a", ""]
    assert detokenizer.flush() == ""
    assert detokenizer.stopped
