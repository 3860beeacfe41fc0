"""A Hugging Face causal language model behind labkit's own scheduler: what `hf:PATH` means."""

import inspect
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import transformers
from pydantic import Field
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from labkit.engine.base import of_type
from labkit.engine.batched import PREFIX_CACHE, SEQS, BatchedEngine
from labkit.engine.hf_runner import HFRunner
from labkit.engine.hf_vocabulary import HFVocabulary
from labkit.engine.scheduler import Memory, Preemption
from labkit.errors import StartError

CONTEXT = of_type("context", Annotated[int, Field(ge=2, le=1 << 20)])

NO_FOLDER = "there is no such folder, and the Hugging Face Hub gives no model of this name"
NO_CONFIG = "Transformers cannot load the model by itself; name a folder that save_pretrained has written"
NO_TOKENIZER = "the model has no tokenizer that can be loaded; tokenizer.save_pretrained writes one beside it"
NOT_FAST = "its tokenizer has no tokenizer.json, without which the bytes of a token are not known"
NOT_CAUSAL = "this is no causal language model (…ForCausalLM) with weights in safetensors files"
NO_CACHE = "it does not keep the keys and values of what it has read; choose a decoder-only Transformer"


class HFEngine(BatchedEngine):
    """Answers with a causal language model of Hugging Face Transformers.

    Models come from safetensors files, which hold no code, and code that comes with a model is not run. What
    the hub has sent once is kept in its cache and used without a network. A prompt is continued as it stands:
    see `HFVocabulary`. Streams take turns: see `HFRunner`.

    Args:
        path: a folder that `save_pretrained` has written, or the name of a model on the hub (`owner/name`).
        context: the most tokens of a prompt and its answer; the model's own limit where that is lower.
        seqs: sequences that hold keys and values at once; more of them do not make it faster.
        dtype: of the weights in memory, whatever the files hold; `bfloat16` takes half of it.

    The others are those of `labkit.engine.local.LocalEngine`.

    Raises:
        StartError: the model or its tokenizer is not there, is of another kind, or the device is missing.
        InvalidRequest: an option is out of range.
    """

    def __init__(
        self,
        path: str,
        interval_ms: float = 0.0,
        policy: str = "sarathi",
        budget: int = 0,
        seqs: int = 16,
        kv_tokens: int = 0,
        memory: Memory = "reserve",
        preemption: Preemption = "recompute",
        prefix_cache: int = 0,
        context: int = 8192,
        device: Literal["cpu", "cuda"] = "cpu",
        dtype: Literal["float32", "bfloat16"] = "float32",
        threads: int = 1,
    ) -> None:
        if device == "cuda" and not torch.cuda.is_available():
            raise StartError("device: this PyTorch finds no CUDA device; use device=cpu")
        folder = Path(path).expanduser()
        source = str(folder.resolve()) if folder.is_dir() else path
        context, prefix_cache, seqs = CONTEXT(context), PREFIX_CACHE(prefix_cache), SEQS(seqs)
        tokenizer = load_tokenizer(source)
        model = load_model(source, device, dtype)
        size = model.get_input_embeddings().num_embeddings
        own_limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        super().__init__(
            f"hf:{Path(source).name}",
            HFRunner(model, prefix_cache),
            HFVocabulary(tokenizer, size, end_tokens(model, tokenizer)),
            context=min(context, own_limit or context),
            interval_ms=interval_ms,
            policy=policy,
            budget=budget,
            seqs=seqs,
            kv_tokens=kv_tokens,
            memory=memory,
            preemption=preemption,
            prefix_cache=prefix_cache,
            threads=threads,
        )


def load_tokenizer(source: str) -> Any:
    """Return a model's tokenizer; raises StartError if there is none whose tokens' bytes are known."""
    _from_pretrained(transformers.AutoConfig, source, NO_CONFIG if Path(source).is_dir() else NO_FOLDER)
    tokenizer = _from_pretrained(transformers.AutoTokenizer, source, NO_TOKENIZER)
    if not getattr(tokenizer, "is_fast", False):
        raise StartError(f"{source}: {NOT_FAST}")
    return tokenizer


def load_model(source: str, device: str, dtype: str) -> Any:
    """Return a model for inference.

    Raises:
        StartError: no causal language model with weights in safetensors files, or one for which the keys and
            values of all positions are not what it has to keep.
    """
    options = {"dtype": getattr(torch, dtype), "use_safetensors": True, "output_loading_info": True}
    model, loaded = _from_pretrained(transformers.AutoModelForCausalLM, source, NOT_CAUSAL, **options)
    if loaded["missing_keys"]:
        raise StartError(f"{source}: {NOT_CAUSAL}: {min(loaded['missing_keys'])} is missing")
    # an encoder such as BERT loads too, and Transformers only logs that it looks ahead
    encoder = type(model.config) in transformers.MODEL_FOR_MASKED_LM_MAPPING
    if encoder and not getattr(model.config, "is_decoder", True):
        raise StartError(f"{source}: {NOT_CAUSAL}: {type(model).__name__} looks ahead")
    model = model.to(device).eval().requires_grad_(False)
    if not _keeps_keys_and_values(model):
        raise StartError(f"{source}: {type(model).__name__}: {NO_CACHE}")
    return model


def end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """The ids with which a text ends: those of generation_config.json, else the tokenizer's, else none."""
    told = model.generation_config.eos_token_id
    told = tokenizer.eos_token_id if told is None else told
    return frozenset(told if isinstance(told, list) else [] if told is None else [told])


def _from_pretrained(kind: Any, source: str, problem: str, **options: Any) -> Any:
    try:
        return kind.from_pretrained(source, trust_remote_code=False, **options)
    except Exception as error:  # any at all: files may be missing, cut off or of another kind
        why = str(error).strip() or type(error).__name__
        raise StartError(f"{source}: {problem}: {why.splitlines()[0]}") from None


@torch.inference_mode()
def _keeps_keys_and_values(model: Any) -> bool:
    """Whether a cache of keys and values is all that the model needs of what it has read."""
    kinds = {type(layer) for layer in DynamicCache(config=model.config).layers}
    takes = inspect.signature(model.forward).parameters
    if not kinds <= {DynamicLayer, DynamicSlidingWindowLayer} or "past_key_values" not in takes:
        return False
    cache = DynamicCache()
    model(torch.zeros(1, 1, dtype=torch.long, device=model.device), past_key_values=cache, use_cache=True)
    return cache.get_seq_length() == 1
