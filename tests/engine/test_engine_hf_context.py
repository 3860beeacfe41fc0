"""How long a text may be: what a configuration says under any name, and what a model does."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hf_models import byte_level, fast, model_of, save, transformers

from labkit.engine import hf_context
from labkit.engine.hf import HFEngine, load_model
from labkit.engine.hf_context import longest
from labkit.errors import InvalidRequest
from labkit.events import Event, Failed, Finished, GenerateRequest
from labkit.stream import Stream

LIMIT = 32
TOKENIZER = fast(byte_level())


def made(kind: str, **fields: Any) -> Any:
    torch.manual_seed(2)
    config = transformers.AutoConfig.for_model(kind, vocab_size=len(TOKENIZER), **fields)
    return transformers.AutoModelForCausalLM.from_config(config).eval()


def mpt() -> Any:
    """It adds to its scores a table of as many places as `max_seq_len` says."""
    return made("mpt", d_model=32, n_heads=4, n_layers=2, expansion_ratio=2, max_seq_len=LIMIT)


def gpt2() -> Any:
    """It has a table of embeddings for places."""
    return made("gpt2", n_embd=32, n_head=4, n_layer=2, n_positions=LIMIT)


def opt() -> Any:
    """As GPT-2, but its table begins two places later."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "word_embed_proj_dim": 32}
    return made("opt", ffn_dim=48, max_position_embeddings=LIMIT, **sizes)


def bloom(**fields: Any) -> Any:
    """It has no limit of its own; some name the length of what it was trained on."""
    return made("bloom", hidden_size=32, n_head=4, n_layer=2, **fields)


async def collect(stream: Stream) -> list[Event]:
    return [event async for event in stream]


@pytest.mark.parametrize("written", [True, False])
@pytest.mark.parametrize("make", [mpt, gpt2, opt])
async def test_a_text_ends_at_the_limit_and_its_neighbours_go_on(
    make: Callable[[], Any], written: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not written:
        monkeypatch.setattr(hf_context, "LIMITS", ())
    engine = HFEngine(str(save(tmp_path, make(), TOKENIZER)), context=200)
    assert engine.context == LIMIT
    prompt = len(engine.vocabulary.prompt("Once"))
    requests = [GenerateRequest(prompt="Once", max_tokens=count, ignore_eos=True) for count in (60, 8, 60)]
    *_, (*_, late) = [await collect(engine.submit(requests[0]))]
    long, short, other = await asyncio.gather(*(collect(engine.submit(each)) for each in requests))
    assert late == long[-1] == other[-1] == Finished(LIMIT - prompt + 2, "length", LIMIT - prompt + 1)
    assert short[-1] == Finished(9, "length", 8)
    assert engine.failed is None
    with pytest.raises(InvalidRequest, match=f"context is {LIMIT}"):
        engine.submit(GenerateRequest(prompt="the fox " * 30))
    engine.close()


async def test_a_limit_that_only_shows_in_a_text_ends_that_text_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("labkit.engine.hf.longest", lambda model, most, layers: most)
    engine = HFEngine(str(save(tmp_path, mpt(), TOKENIZER)), context=200)
    requests = [GenerateRequest(prompt="Once", max_tokens=count, ignore_eos=True) for count in (60, 8, 60)]
    ends = [events[-1] for events in await asyncio.gather(*(collect(engine.submit(r)) for r in requests))]
    assert ends[1] == Finished(9, "length", 8)
    assert isinstance(ends[0], Failed) and "must match the size" in ends[0].message
    assert ends[2] == ends[0] and engine.failed is None
    assert isinstance((await collect(engine.submit(requests[1])))[-1], Finished)
    engine.close()


@pytest.mark.parametrize("name", hf_context.LIMITS)
def test_a_limit_is_read_under_any_name_also_of_a_text_within(name: str) -> None:
    for value, expected in ((24, 24), (1 << 60, 50), (-1, 50), (None, 50), (1e30, 50)):
        text = SimpleNamespace(**{name: value})
        whole = SimpleNamespace(**{name: value}, get_text_config=lambda decoder: SimpleNamespace())
        nested = SimpleNamespace(get_text_config=lambda decoder, text=text: text)
        for config in (whole, nested):
            assert longest(Tireless(config), 50, 2) == expected


class Tireless:
    """A model that computes texts of any length."""

    def __init__(self, config: Any) -> None:
        self.config = config

    def __call__(self, token: torch.Tensor, **options: Any) -> None: ...


def test_a_model_without_a_limit_has_what_is_asked_for(tmp_path: Path) -> None:
    assert load_model(str(save(tmp_path, bloom())), "float32", 300)[1] == 300
    assert load_model(str(save(tmp_path, bloom(seq_length=24))), "float32", 300)[1] == 24


@pytest.mark.parametrize("kind", ["llama", "mistral"])
def test_a_limit_beyond_which_a_model_still_computes_is_believed(kind: str) -> None:
    model = model_of(kind, TOKENIZER)
    assert longest(model, 8192, 2) == model.config.max_position_embeddings == 64


def test_to_be_asked_takes_no_memory_for_a_text() -> None:
    """A text of a million places: their keys and values, if all layers kept them, were 512 MB."""
    layers: list[Any] = []

    def model(token: torch.Tensor, past_key_values: Any, use_cache: bool) -> None:
        for number in range(2):
            new = torch.ones(1, 1, 1, 4)
            keys, values = past_key_values.update(new, new, number)
            assert keys.shape == values.shape == (1, 1, 1 << 20, 4)
            assert keys[0, 0, -1].tolist() == [1.0] * 4 and not keys[0, 0, :-1].any()
        layers.extend(past_key_values.layers)

    config = SimpleNamespace(get_text_config=lambda decoder: SimpleNamespace())
    model.config = config  # type: ignore[attr-defined]
    assert longest(model, 1 << 20, 2) == 1 << 20
    assert len(layers) == 2 and all(layer.keys is None for layer in layers)
