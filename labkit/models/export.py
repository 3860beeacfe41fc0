"""Writes the text model for other tools, as a Hugging Face folder: ``python -m labkit.models.export FOLDER``.

The folder is a float32 ``LlamaForCausalLM`` (docs: huggingface.co/docs/transformers/model_doc/llama), which
Transformers loads and llama.cpp's converter reads. Only the order of the rotated dimensions and the norms'
gains change, because Llama has them elsewhere.
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from labkit.models.text import DEFAULT_WEIGHTS, LAST_GAIN, TextConfig, TextModel
from labkit.models.tokenizer import DEFAULT_TOKENIZER, END, TOKENIZER_FILE, Tokenizer


def to_huggingface(model: TextModel, folder: Path, tokenizer: Path | None = None) -> None:
    """Write ``model.safetensors`` and ``config.json`` into a folder; make the folder if it is not there.

    With a ``tokenizer.json`` the folder gets a tokenizer too; without one it holds only the model.
    Raises FileNotFoundError if there is no such tokenizer.
    """
    eos_id = None if tokenizer is None else Tokenizer.load(tokenizer).eos_id
    folder.mkdir(parents=True, exist_ok=True)
    data = save(llama_weights(model), metadata={"format": "pt"})
    (folder / "model.safetensors").write_bytes(data)
    _write(folder / "config.json", llama_config(model.config, eos_id))
    if tokenizer is not None:
        shutil.copyfile(tokenizer, folder / TOKENIZER_FILE)
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END}
        _write(folder / "tokenizer_config.json", {**settings, "model_max_length": model.config.context})


def llama_config(config: TextConfig, eos_id: int | None) -> dict[str, Any]:
    """Return a model's sizes in the words of Hugging Face's ``LlamaConfig``."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "float32",
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.context,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.heads,
        "head_dim": config.head_dim,
        "hidden_size": config.width,
        "intermediate_size": config.hidden,
        "hidden_act": "silu",
        "rms_norm_eps": torch.finfo(torch.float32).eps,  # the default of F.rms_norm
        "rope_theta": config.rotary_base,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": eos_id,
    }


def llama_weights(model: TextModel) -> dict[str, Tensor]:
    """Return the weights under Llama's names, one matrix for each of q, k, v, gate and up, and all gains."""
    config, own = model.config, model.state_dict()
    weights = {
        "model.embed_tokens.weight": own["embed.weight"],
        # the model scales its last norm by LAST_GAIN; Llama has a gain there
        "model.norm.weight": torch.full((config.width,), LAST_GAIN),
    }
    for layer in range(config.layers):
        there, here = f"model.layers.{layer}", f"blocks.{layer}"
        query, key, value = own[f"{here}.qkv.weight"].chunk(3)
        gate, up = own[f"{here}.gate_up.weight"].chunk(2)
        weights |= {
            f"{there}.input_layernorm.weight": torch.ones(config.width),
            f"{there}.self_attn.q_proj.weight": halved(query, config),
            f"{there}.self_attn.k_proj.weight": halved(key, config),
            f"{there}.self_attn.v_proj.weight": value,
            f"{there}.self_attn.o_proj.weight": own[f"{here}.out.weight"],
            f"{there}.post_attention_layernorm.weight": torch.ones(config.width),
            f"{there}.mlp.gate_proj.weight": gate,
            f"{there}.mlp.up_proj.weight": up,
            f"{there}.mlp.down_proj.weight": own[f"{here}.down.weight"],
        }
    return {name: weight.float().contiguous() for name, weight in weights.items()}


def halved(rows: Tensor, config: TextConfig) -> Tensor:
    """Reorder the rows [W, W] of queries or keys for a rotation of halves.

    This model rotates the pairs (0, 1), (2, 3), …, as RoPE's paper does; Transformers rotates i and i + D/2.
    So in each head the first numbers of all pairs move to the front. Attention's scores stay the same.
    """
    pairs = rows.view(config.heads, config.head_dim // 2, 2, -1)
    return pairs.transpose(1, 2).reshape(rows.shape)


def _write(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Read the command line and export."""
    parser = argparse.ArgumentParser(prog="python -m labkit.models.export", description=__doc__)
    parser.add_argument("folder", type=Path, help="where to write; made if it is not there")
    parser.add_argument("--weights", type=Path, default=DEFAULT_WEIGHTS, help="a folder that training wrote")
    options = parser.parse_args()
    beside = options.weights / TOKENIZER_FILE
    try:
        model = TextModel.load(options.weights)
        to_huggingface(model, options.folder, beside if beside.is_file() else DEFAULT_TOKENIZER)
    except OSError as error:
        raise SystemExit(f"cannot export: {error}") from None
    print(f"a Hugging Face model is in {options.folder}")


if __name__ == "__main__":
    main()
