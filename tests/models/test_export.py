"""The model in other tools' form: the same numbers under Llama's names, and the same tokens come out."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from labkit.bench.peer_process import PeerProcess
from labkit.models.export import halved, llama_weights, to_huggingface
from labkit.models.seeded import seeded
from labkit.models.text import WEIGHTS_FILE, TextConfig, TextModel, rotate, rotation_table
from labkit.models.tokenizer import DEFAULT_TOKENIZER, Tokenizer

torch.set_num_threads(1)
SMALL = TextConfig(vocab_size=60, context=64, layers=3, heads=2, head_dim=8, hidden=24, rotary_base=500.0)


def models() -> list[TextModel]:
    return [TextModel.load(), seeded(SMALL, 1)]


def in_halves(x: Tensor, config: TextConfig) -> Tensor:
    """Rotate x [T, H, D] as Transformers does: number i with number i + D/2, by the position's angle."""
    speeds = config.rotary_base ** -(torch.arange(0, config.head_dim, 2) / config.head_dim)
    angles = torch.outer(torch.arange(len(x)), speeds)[:, None]
    first, second = x.chunk(2, dim=-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def test_halved_queries_and_keys_have_the_scores_of_neighbours() -> None:
    c = SMALL
    x = torch.randn(10, c.width, generator=torch.Generator().manual_seed(0))
    matrices = seeded(c, 2).state_dict()["blocks.0.qkv.weight"].chunk(3)
    qkv = torch.stack([x @ matrix.T for matrix in matrices], dim=1).view(10, 3, c.heads, c.head_dim)
    query, key, value = rotate(qkv, rotation_table(c)[:10]).unbind(1)
    theirs = [in_halves((x @ halved(m, c).T).view(10, c.heads, c.head_dim), c) for m in matrices[:2]]
    scores = torch.einsum("qhd,khd->hqk", query, key)
    torch.testing.assert_close(torch.einsum("qhd,khd->hqk", *theirs), scores)
    assert torch.equal(value, qkv[:, 2])


def test_every_weight_is_exported_once(tmp_path: Path) -> None:
    model = seeded(SMALL, 1)
    to_huggingface(model, tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    gains = [weight for name, weight in weights.items() if "norm" in name]
    assert len(gains) == 2 * SMALL.layers + 1
    numbers = sum(weight.numel() for weight in weights.values()) - sum(gain.numel() for gain in gains)
    assert numbers == sum(weight.numel() for weight in model.parameters())
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
    assert weights.keys() == llama_weights(model).keys()
    assert (
        json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))["rope_theta"] == SMALL.rotary_base
    )


def test_a_missing_tokenizer_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no\.json is missing"):
        to_huggingface(seeded(SMALL, 1), tmp_path / "out", tmp_path / "no.json")
    assert list(tmp_path.iterdir()) == []


def test_transformers_finds_the_same_logits(tmp_path: Path) -> None:
    transformers: Any = pytest.importorskip("transformers", reason='pip install "labkit[hf]"')
    for number, model in enumerate(models()):
        to_huggingface(model, tmp_path / str(number))
        other = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / str(number), dtype="float32")
        ids = torch.randint(SMALL.vocab_size, (2, 50), generator=torch.Generator().manual_seed(3))
        with torch.inference_mode():
            torch.testing.assert_close(
                other(ids).logits.flatten(0, 1), model.all_logits(ids), atol=1e-4, rtol=1e-4
            )


def test_transformers_reads_the_tokenizer_and_ends_with_its_end(tmp_path: Path) -> None:
    transformers: Any = pytest.importorskip("transformers", reason='pip install "labkit[hf]"')
    to_huggingface(TextModel.load(), tmp_path, DEFAULT_TOKENIZER)
    own, theirs = Tokenizer.load(), transformers.AutoTokenizer.from_pretrained(tmp_path)
    text = "Tell me a story about Zoë.\n“Oh no!” cried Mia."
    assert theirs(text)["input_ids"] == own.encode(text)
    assert theirs.decode(own.encode(text)) == text
    assert theirs.eos_token_id == own.eos_id
    config = transformers.AutoConfig.from_pretrained(tmp_path)
    assert config.eos_token_id == own.eos_id


def test_llama_cpp_chooses_the_same_tokens(tmp_path: Path) -> None:
    python = os.environ.get("LABKIT_LLAMA_PYTHON")
    if not python:
        pytest.skip("LABKIT_LLAMA_PYTHON names no Python with llama-cpp-python and gguf")
    model, prompt = seeded(SMALL, 1), [5, 17, 40, 2]
    to_huggingface(model, tmp_path)
    model.save(tmp_path / WEIGHTS_FILE)
    with PeerProcess("own", "peer_labkit.py") as own, PeerProcess("llama", "peer_llama.py", python) as llama:
        answers = []
        for peer in (own, llama):
            peer.ready()
            answers.append(peer.ask(tmp_path, [prompt, prompt[::-1]], 30).tokens)
    assert answers[0] == answers[1]
    assert [len(row) for row in answers[0]] == [30, 30]


def export(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "labkit.models.export", *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_command_writes_the_shipped_model(tmp_path: Path) -> None:
    result = export(str(tmp_path / "new" / "folder"))
    assert result.returncode == 0, result.stderr
    written = {path.name for path in (tmp_path / "new" / "folder").iterdir()}
    assert written == {"model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"}


def test_the_command_names_what_is_missing(tmp_path: Path) -> None:
    result = export(str(tmp_path / "out"), "--weights", str(tmp_path))
    assert result.returncode == 1
    assert "text.safetensors is missing; make it with" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_seed_makes_one_model_and_saving_loses_nothing(tmp_path: Path) -> None:
    first, again, other = seeded(SMALL, 1), seeded(SMALL, 1), seeded(SMALL, 2)
    first.save(tmp_path / WEIGHTS_FILE)
    saved = TextModel.load(tmp_path)
    for name, weight in first.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name])
        assert torch.equal(weight, saved.state_dict()[name])
        assert not torch.equal(weight, other.state_dict()[name])
        assert weight.std() > 0
