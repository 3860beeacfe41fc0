"""A folder that holds no causal model is refused in one line that says why."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hf_models import SIZES, byte_level, fast, model_of, save, transformers

from labkit.engine import create_engine
from labkit.errors import StartError


def config_only(folder: Path, **fields: Any) -> None:
    (folder / "config.json").write_text(json.dumps(fields), encoding="utf-8")


def without_weights(folder: Path) -> None:
    tokenizer = fast(byte_level())
    save(folder, model_of("llama", tokenizer), tokenizer)
    (folder / "model.safetensors").unlink()


def pickled(folder: Path) -> None:
    without_weights(folder)
    torch.save(model_of("llama", fast(byte_level())).state_dict(), folder / "pytorch_model.bin")


def cut_off(folder: Path) -> None:
    without_weights(folder)
    (folder / "model.safetensors").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{")


def without_tokenizer(folder: Path) -> None:
    save(folder, model_of("llama", fast(byte_level())))


def headless(folder: Path) -> None:
    tokenizer = fast(byte_level())
    save(folder, model_of("llama", tokenizer).model, tokenizer)


def encoder(folder: Path) -> None:
    tokenizer = fast(byte_level())
    config = transformers.BertConfig(vocab_size=len(tokenizer), **SIZES)
    save(folder, transformers.BertForMaskedLM(config), tokenizer)


def recurrent(folder: Path) -> None:
    tokenizer = fast(byte_level())
    config = transformers.MambaConfig(vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1)
    save(folder, transformers.MambaForCausalLM(config), tokenizer)


def with_code(folder: Path) -> None:
    config_only(
        folder, model_type="own", auto_map={"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Model"}
    )
    (folder / "own.py").write_text("raise SystemExit('the code of a model was run')", encoding="utf-8")


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "an empty folder": (lambda folder: None, "save_pretrained"),
    "no configuration": (
        lambda folder: (folder / "config.json").write_text("{", encoding="utf-8"),
        "save_pretrained",
    ),
    "an unknown kind": (lambda folder: config_only(folder, model_type="huge"), "`huge`"),
    "code of its own": (with_code, "by itself"),
    "a model of images": (lambda folder: config_only(folder, model_type="vit"), "tokenizer"),
    "no tokenizer": (without_tokenizer, "tokenizer.save_pretrained"),
    "no weights": (without_weights, "safetensors"),
    "weights in a pickle": (pickled, "safetensors"),
    "weights cut off": (cut_off, "safetensors"),
    "no head": (headless, "lm_head.weight is missing"),
    "an encoder": (encoder, "looks ahead"),
    "no keys and values": (recurrent, "decoder-only"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_folder_without_a_causal_model_is_refused_in_one_line(what: str, tmp_path: Path) -> None:
    make, says = BROKEN[what]
    make(tmp_path)
    with pytest.raises(StartError) as error:
        create_engine(f"hf:{tmp_path}")
    assert says in str(error.value) and str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)
    assert error.value.__cause__ is None


@pytest.mark.parametrize("path", ["/no/such", "./nowhere", "nobody/nothing", "no such name"])
def test_a_missing_folder_is_refused_in_one_line(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(StartError, match=f"^{path}: there is no such folder") as error:
        create_engine(f"hf:{path}")
    assert "\n" not in str(error.value)
    assert error.value.__cause__ is None
