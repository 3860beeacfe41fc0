"""One pass over many sequences: the same logits as each alone, to the last bit where that is promised."""

from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import pytest
import torch
from invariance import skip_unless_kept
from torch import Tensor

from labkit.models import invariance
from labkit.models.packed import PackedModel
from labkit.models.ragged import KVPool, Model, Part, step
from labkit.models.text import TextConfig, TextModel

torch.set_num_threads(1)
LAYOUTS: dict[str, Callable[[TextModel], Model]] = {
    "plain": lambda model: model,
    "packed": lambda model: PackedModel(model, measured=False),
    "measured": PackedModel,
}
TILES = [("plain", 16), ("packed", 4), ("packed", 8)]
BOUND = 1e-4
"""The most by which logits differ without padded rows, as a share of the greatest."""


@pytest.fixture(scope="module")
def model() -> TextModel:
    return TextModel.load()


def random_model(**sizes: int) -> TextModel:
    torch.manual_seed(1)
    config = TextConfig(**{"vocab_size": 50, "layers": 3, "heads": 2, "head_dim": 8, "hidden": 24, **sizes})
    return TextModel(config).requires_grad_(False)


def texts(random: Random, *lengths: int) -> list[list[int]]:
    return [[random.randrange(1024) for _ in range(length)] for length in lengths]


def cut(random: Random, length: int) -> Iterator[int]:
    """Random pieces of a text: single tokens, a few, many."""
    while length > 0:
        piece = min(length, random.choice([1, 1, 2, 15, 16, 33, 100, 193, 700]))
        yield piece
        length -= piece


def alone(model: Model, ids: list[int], rows: int = 0) -> Tensor:
    return step(model, KVPool(model.config, slots=1), [Part(0, 0, ids)], rows)[0]


def in_company(model: Model, random: Random, ids: list[list[int]], rows: int) -> list[Tensor]:
    """The logits after each text, all computed beside each other in random pieces, slots and order."""
    slots = random.sample(range(len(ids) + 3), len(ids))
    pool = KVPool(model.config, slots=len(ids) + 3)
    pieces = [list(cut(random, len(text))) for text in ids]
    done, last = [0] * len(ids), [torch.empty(0)] * len(ids)
    while waiting := [n for n in range(len(ids)) if pieces[n]]:
        chosen = random.sample(waiting, random.randint(1, len(waiting)))
        sizes = [pieces[n].pop() for n in chosen]
        parts = [
            Part(slots[n], done[n], ids[n][done[n] : done[n] + size])
            for n, size in zip(chosen, sizes, strict=True)
        ]
        for n, part, logits in zip(chosen, parts, step(model, pool, parts, rows), strict=True):
            done[n], last[n] = part.end, logits
    return last


def largest_share(logits: Tensor, expected: Tensor) -> float:
    return float((logits - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize(("kind", "rows"), TILES)
@pytest.mark.parametrize("seed", range(3))
def test_in_passes_of_one_size_logits_are_the_same_bit_for_bit(
    model: TextModel, seed: int, kind: str, rows: int
) -> None:
    laid_out, random = LAYOUTS[kind](model), Random(seed)
    skip_unless_kept(laid_out, rows)
    ids = texts(random, *random.choices([1, 2, 17, 40, 130, 300, 520, 1000], k=6))
    for text, logits in zip(ids, in_company(laid_out, random, ids, rows), strict=True):
        assert torch.equal(logits, alone(laid_out, text, rows))


class Careless:
    """A model whose last bits depend on something else than a sequence's own tokens."""

    def __init__(self, model: TextModel, error: Callable[[Tensor], Tensor]) -> None:
        self._model, self.config, self.embed, self.logits = model, model.config, model.embed, model.logits
        self._error = error

    def __call__(self, tokens: Tensor, *more: Any) -> Tensor:
        x: Tensor = self._model(tokens, *more)
        return x * (1 + 1e-6 * self._error(tokens)[:, None])


ERRORS: dict[str, Callable[[Tensor], Tensor]] = {
    "neighbours": lambda tokens: (tokens.sum() % 7).expand(len(tokens)),
    "place": lambda tokens: torch.arange(len(tokens)) // 4,
    "shape": lambda tokens: torch.full_like(tokens, len(tokens)),
}


@pytest.mark.parametrize(("error", "rows"), [("neighbours", 8), ("place", 8), ("shape", 0)])
def test_the_check_notices_a_difference_in_the_last_bits(model: TextModel, error: str, rows: int) -> None:
    careless: Any = Careless(model, ERRORS[error])
    assert invariance.depends_on_company(careless, rows)


@pytest.mark.parametrize(("kind", "rows"), [("plain", 0), ("packed", 0), ("measured", 0), *TILES])
@pytest.mark.parametrize("seed", range(2))
def test_logits_differ_by_less_than_the_bound(model: TextModel, seed: int, rows: int, kind: str) -> None:
    random = Random(seed)
    ids = texts(random, *random.choices([1, 17, 130, 300, 520, 1000], k=5))
    for text, logits in zip(ids, in_company(LAYOUTS[kind](model), random, ids, rows), strict=True):
        with torch.inference_mode():
            expected = model.all_logits(torch.tensor([text]))[-1]
        assert largest_share(logits, expected) <= BOUND


@pytest.mark.parametrize("rows", [0, 1, 16])
def test_parts_give_what_the_whole_text_gives_with_random_weights(rows: int) -> None:
    model = random_model()
    ids = torch.randint(50, (40,)).tolist()
    with torch.inference_mode():
        whole = model.all_logits(torch.tensor([ids]))
    pool = KVPool(model.config, slots=2)
    for start, end in [(0, 7), (7, 8), (8, 30), (30, 31), (31, 40)]:
        logits = step(model, pool, [Part(1, start, ids[start:end])], rows)
        torch.testing.assert_close(logits[0], whole[end - 1])


def test_a_slot_used_before_leaves_no_trace(model: TextModel) -> None:
    long, short = texts(Random(0), 200, 20)
    pool = KVPool(model.config, slots=1)
    step(model, pool, [Part(0, 0, long)])
    assert torch.equal(step(model, pool, [Part(0, 0, short)])[0], alone(model, short))


def test_what_was_read_from_a_slot_goes_on_in_another(model: TextModel) -> None:
    (ids,) = texts(Random(0), 50)
    pool = KVPool(model.config, slots=3)
    step(model, pool, [Part(2, 0, ids[:49])])
    first, rest = pool.read(2, 0, 32), pool.read(2, 32, 49)
    stayed = step(model, pool, [Part(2, 49, ids[49:])])
    pool.kv[:, 2] = 7.0  # what was read is a copy
    pool.write(0, 0, first)
    pool.write(0, 32, rest)
    assert torch.equal(step(model, pool, [Part(0, 49, ids[49:])]), stayed)


def test_the_context_can_be_filled_and_no_more() -> None:
    model = random_model(context=40)
    pool = KVPool(model.config, slots=1)
    ids = torch.randint(50, (41,)).tolist()
    with torch.inference_mode():
        whole = model.all_logits(torch.tensor([ids[:40]]))
    step(model, pool, [Part(0, 0, ids[:39])])
    torch.testing.assert_close(step(model, pool, [Part(0, 39, ids[39:40])])[0], whole[-1])
    for parts in ([Part(0, 40, ids[40:])], [Part(0, 0, ids)], [Part(0, 5, [])], []):
        with pytest.raises(ValueError, match="at least one token within a context of 40"):
            step(model, pool, parts)


def test_keys_and_values_are_of_the_kind_asked_for() -> None:
    config = random_model().config
    assert KVPool(config, 1).kv.dtype == torch.float32
    like = torch.empty(0, dtype=torch.bfloat16)
    pool = KVPool(config, 2, like=like)
    assert pool.kv.dtype == torch.bfloat16
    assert pool.kv.shape == (3, 2, 2, 2, config.context, 8)


def test_bfloat16_computes_nearly_the_same(model: TextModel) -> None:
    (ids,) = texts(Random(1), 60)
    exact = alone(model, ids)
    rough = TextModel.load().converted("cpu", torch.bfloat16)
    pool = KVPool(rough.config, 1, like=rough.embed.weight)
    logits = step(rough, pool, [Part(0, 0, ids)])[0].float()
    assert 0 < largest_share(logits, exact) < 0.1
