"""llama.cpp as a peer, through llama-cpp-python; it reads a GGUF file made here from a Hugging Face folder.

It runs in an environment of its own, without labkit: `pip install llama-cpp-python gguf` for a Python (3.11
or later) that LABKIT_LLAMA_PYTHON names. The package's `Llama` answers one prompt at a time, so this
decodes through llama.cpp's C functions, all sequences in one batch, on one thread. The weights are float32;
all else is llama.cpp's default (a float16 cache, flash attention), which is also its fastest setting.
"""

import json
from collections.abc import Callable
from pathlib import Path
from time import process_time
from typing import Any

import gguf
import llama_cpp.llama_cpp as llama
import numpy

PACKAGES = ("llama-cpp-python",)
QUIET = llama.llama_log_callback(lambda level, text, data: None)  # otherwise it fills stderr
NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
}


def load(folder: Path) -> Callable[[list[list[int]], int], tuple[float, list[list[int]]]]:
    """Return `generate`: it returns the CPU seconds from the first new tokens to the last, and the tokens."""
    llama.llama_log_set(QUIET, None)
    path = folder / "model.gguf"
    write_gguf(folder, path)
    model = llama.llama_model_load_from_file(str(path).encode(), llama.llama_model_default_params())
    if not model:
        raise RuntimeError("llama.cpp cannot read its model: try llama-cpp-python 0.3.36")

    def generate(prompts: list[list[int]], tokens: int) -> tuple[float, list[list[int]]]:
        decode = _Decode(model, len(prompts), len(prompts[0]) + tokens)
        try:
            rows = [decode(prompts, 0)]
            begun = process_time()
            for place in range(len(prompts[0]), len(prompts[0]) + tokens - 1):
                rows.append(decode(rows[-1][:, None], place))
            return process_time() - begun, numpy.stack(rows, axis=1).tolist()
        finally:
            decode.close()

    return generate


class _Decode:
    """A context for sequences of one length; a call reads tokens [B, T] from `place` on and answers [B]."""

    def __init__(self, model: Any, sequences: int, length: int) -> None:
        settings = llama.llama_context_default_params()
        settings.n_seq_max, settings.n_ctx = sequences, sequences * (-(-length // 256) * 256)
        settings.n_threads = settings.n_threads_batch = 1
        self._context = llama.llama_init_from_model(model, settings)
        self._vocab = llama.llama_n_vocab(llama.llama_model_get_vocab(model))
        self._batch = llama.llama_batch_init(sequences * length, 0, 1)

    def __call__(self, tokens: Any, place: int) -> Any:
        length, batch = len(tokens[0]), self._batch
        batch.n_tokens = len(tokens) * length
        for index in range(batch.n_tokens):
            row, column = divmod(index, length)
            batch.token[index], batch.pos[index] = int(tokens[row][column]), place + column
            batch.n_seq_id[index], batch.seq_id[index][0] = 1, row
            batch.logits[index] = column == length - 1
        if llama.llama_decode(self._context, batch):
            raise RuntimeError("llama.cpp has no room for these tokens: ask for fewer")
        logits = llama.llama_get_logits(self._context)
        return numpy.ctypeslib.as_array(logits, (len(tokens), self._vocab)).argmax(axis=1)

    def close(self) -> None:
        llama.llama_batch_free(self._batch)
        llama.llama_free(self._context)


def write_gguf(folder: Path, path: Path) -> None:
    """Write a Hugging Face folder's Llama as float32 GGUF (docs/gguf.md in github.com/ggml-org/ggml).

    It has no tokenizer: token ids go in and come out.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    heads, base = config["num_attention_heads"], config["rope_theta"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_vocab_size(config["vocab_size"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(base)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_tokenizer_model("none")
    for name, weight in _weights(folder / "model.safetensors"):
        writer.add_tensor(_renamed(name), _paired(weight, heads) if _rotated(name) else weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _weights(path: Path) -> Any:
    """The float32 arrays of a safetensors file by name: a length, a JSON header with offsets, the numbers."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    for name, entry in json.loads(data[8:start]).items():
        if name != "__metadata__":
            first, end = entry["data_offsets"]
            yield name, numpy.frombuffer(data[start + first : start + end], "<f4").reshape(entry["shape"])


def _renamed(name: str) -> str:
    """`model.layers.3.mlp.up_proj.weight` as `blk.3.ffn_up.weight`."""
    stem = name.removesuffix(".weight")
    if stem in NAMES:
        return f"{NAMES[stem]}.weight"
    layer, _, part = stem.removeprefix("model.layers.").partition(".")
    return f"blk.{layer}.{NAMES[part]}.weight"


def _rotated(name: str) -> bool:
    return ".q_proj." in name or ".k_proj." in name


def _paired(weight: Any, heads: int) -> Any:
    """Llama rotates neighbours in llama.cpp and halves in Transformers; back from the second to the first."""
    return weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)
