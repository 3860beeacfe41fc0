"""The engine `hf:PATH`, which runs a Hugging Face causal language model behind labkit's own scheduler."""

import inspect
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import transformers
from pydantic import Field
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from labkit.engine.batched import BatchedEngine
from labkit.engine.hf_context import longest
from labkit.engine.hf_runner import HFRunner
from labkit.engine.hf_vocabulary import HFVocabulary
from labkit.engine.options import Scheduling, valid
from labkit.errors import StartError

Context = Annotated[int, Field(ge=2, le=1 << 20)]

NO_FOLDER = "there is no such folder, and the Hugging Face Hub gives no model of this name"
NO_CONFIG = "Transformers cannot load the model by itself; name a folder that save_pretrained has written"
NO_TOKENIZER = "the model has no tokenizer that can be loaded; tokenizer.save_pretrained writes one beside it"
NOT_FAST = "its tokenizer has no tokenizer.json, which has the bytes of each token"
NOT_CAUSAL = "this is no causal language model (…ForCausalLM) with weights in safetensors files"
NO_CACHE = "it does not keep the keys and values of what it has read; choose a decoder-only Transformer"


class HFEngine(BatchedEngine):
    """Answers with a causal language model of Hugging Face Transformers.

    The weights come from safetensors files, which hold no code; code that comes with a model is not run. A
    model that the hub has sent once is kept in its cache and used without a network. The model continues the
    prompt as it stands: see `HFVocabulary`. Streams take turns: see `HFRunner`.

    Args:
        path: a folder that `save_pretrained` has written, or the name of a model on the hub (`owner/name`).
        seqs: the most sequences that hold keys and values at once; more of them do not make it faster.
        context: the most tokens of a prompt and its answer. Where the model's own limit is lower, that holds
            (`labkit.engine.hf_context`).
        device: `cpu`, or `cuda` where torch has it.
        dtype: of the weights in memory, whatever the files hold; `bfloat16` takes half the memory.
        scheduling: the other fields of `labkit.engine.options.Scheduling`, such as `policy` or `kv_tokens`.

    Raises:
        StartError: the model or its tokenizer is missing or of another kind, or the device is missing.
        InvalidRequest: an option is out of range.
    """

    def __init__(
        self,
        path: str,
        *,
        seqs: int = 16,
        context: int = 8192,
        device: Literal["cpu", "cuda"] = "cpu",
        dtype: Literal["float32", "bfloat16"] = "float32",
        **scheduling: Any,
    ) -> None:
        options = Scheduling.checked({"seqs": seqs, **scheduling})
        context = valid("context", Context, context)
        if device == "cuda" and not torch.cuda.is_available():
            raise StartError("device: this PyTorch finds no CUDA device; use device=cpu")
        folder = Path(path).expanduser()
        source = str(folder.resolve()) if folder.is_dir() else path
        tokenizer = load_tokenizer(source)
        model, context = load_model(source, dtype, context)
        size = model.get_input_embeddings().num_embeddings
        super().__init__(
            f"hf:{Path(source).name}",
            HFRunner(model.to(device), options.prefix_cache),
            HFVocabulary(tokenizer, size, end_tokens(model, tokenizer)),
            context,
            options,
        )


def load_tokenizer(source: str) -> Any:
    """Return a model's tokenizer.

    Raises:
        StartError: there is none, or it does not tell the bytes of its tokens.
    """
    _from_pretrained(transformers.AutoConfig, source, NO_CONFIG if Path(source).is_dir() else NO_FOLDER)
    tokenizer = _from_pretrained(transformers.AutoTokenizer, source, NO_TOKENIZER)
    if not getattr(tokenizer, "is_fast", False):
        raise StartError(f"{source}: {NOT_FAST}")
    return tokenizer


def load_model(source: str, dtype: str, context: int) -> tuple[Any, int]:
    """Return a model for inference, on the CPU, and how many tokens it can hold, at most `context`.

    Raises:
        StartError: there is no causal language model with weights in safetensors files, or it keeps more
            than keys and values of the text that it has read.
    """
    options = {"dtype": getattr(torch, dtype), "use_safetensors": True, "output_loading_info": True}
    model, loaded = _from_pretrained(transformers.AutoModelForCausalLM, source, NOT_CAUSAL, **options)
    if loaded["missing_keys"]:
        raise StartError(f"{source}: {NOT_CAUSAL}: {min(loaded['missing_keys'])} is missing")
    # Transformers loads an encoder such as BERT too, and only logs that it looks ahead
    encoder = type(model.config) in transformers.MODEL_FOR_MASKED_LM_MAPPING
    if encoder and not getattr(model.config, "is_decoder", True):
        raise StartError(f"{source}: {NOT_CAUSAL}: {type(model).__name__} looks ahead")
    model = model.eval().requires_grad_(False)
    layers = _layers_of_keys_and_values(model)
    if not layers:
        raise StartError(f"{source}: {type(model).__name__}: {NO_CACHE}")
    return model, longest(model, context, layers)


def end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """The ids that end a text: those of generation_config.json, else the tokenizer's, else none."""
    ids = model.generation_config.eos_token_id
    ids = tokenizer.eos_token_id if ids is None else ids
    return frozenset(ids if isinstance(ids, list) else [] if ids is None else [ids])


def _from_pretrained(kind: Any, source: str, problem: str, **options: Any) -> Any:
    try:
        return kind.from_pretrained(source, trust_remote_code=False, **options)
    except Exception as error:  # files that are missing, cut off or of another kind raise many types
        reason = str(error).strip() or type(error).__name__
        raise StartError(f"{source}: {problem}: {reason.splitlines()[0]}") from None


@torch.inference_mode()
def _layers_of_keys_and_values(model: Any) -> int:
    """How many layers keep them; 0 if they are not all that the model keeps of the text that it has read."""
    kinds = {type(layer) for layer in DynamicCache(config=model.config).layers}
    parameters = inspect.signature(model.forward).parameters
    if not kinds <= {DynamicLayer, DynamicSlidingWindowLayer} or "past_key_values" not in parameters:
        return 0
    cache = DynamicCache()
    model(torch.zeros(1, 1, dtype=torch.long), past_key_values=cache, use_cache=True)
    return len(cache.layers) if cache.get_seq_length() == 1 else 0
