"""A Hugging Face causal language model behind labkit's own scheduler: what `hf:PATH` means."""

import inspect
import re
from collections.abc import Sequence as Many
from pathlib import Path
from typing import Annotated, Any, Literal, cast
from weakref import WeakKeyDictionary

import torch
import transformers
from pydantic import Field
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from labkit.engine.base import of_type
from labkit.engine.batched import PREFIX_CACHE, SEQS, BatchedEngine
from labkit.engine.core import Work
from labkit.engine.runner import SampledSequence
from labkit.engine.sampling import sample
from labkit.engine.scheduler import BLOCK, Memory, Preemption
from labkit.engine.sequence import Sequence
from labkit.errors import InvalidRequest, StartError

CONTEXT = of_type("context", Annotated[int, Field(ge=2, le=1 << 20)])

BYTE = re.compile(r"<0x([0-9A-F]{2})>")
BYTE_OF_LETTER: dict[str, int] = {
    letter: byte
    for byte, letter in bytes_to_unicode().items()  # type: ignore[no-untyped-call]
}

NO_FOLDER = "there is no such folder, and the Hugging Face Hub gives no model of this name"
NO_CONFIG = "Transformers cannot load the model by itself; name a folder that save_pretrained has written"
NO_TOKENIZER = "the model has no tokenizer that can be loaded; tokenizer.save_pretrained writes one beside it"
NOT_FAST = "its tokenizer has no tokenizer.json, without which the bytes of a token are not known"
NOT_CAUSAL = "this is no causal language model (…ForCausalLM) with weights in safetensors files"
NO_CACHE = "it does not keep the keys and values of what it has read; choose a decoder-only Transformer"

Layers = list[tuple[Tensor, Tensor]]
"""Keys and values [1, heads, positions, dim] of each layer."""


class HFVocabulary:
    """The tokenizer of a model, as an engine needs it.

    A prompt is continued as it stands: no chat template is put around it. A start token comes first where the
    tokenizer adds one. Special tokens that the prompt spells out are read as such, so that a chat template
    can be written out by hand.

    A token's bytes are what it adds behind another one, since an answer stands behind its prompt: it is at
    the beginning of a text alone that SentencePiece leaves out the space of `▁`. Special tokens add none. So
    the text of an answer is `tokenizer.decode(prompt + answer, skip_special_tokens=True)` without that of the
    prompt; only for bytes that are not UTF-8 may the number of U+FFFD differ.

    Args:
        tokenizer: of Transformers, with a `tokenizers` backend (a "fast" one).
        size: how many ids the model knows.
        eos_ids: with which of them a text ends.
    """

    def __init__(self, tokenizer: Any, size: int, eos_ids: frozenset[int] = frozenset()) -> None:
        self.eos_ids = eos_ids
        self.eos_id = min(eos_ids, default=-1)
        self._size = size
        self._tokenizer = tokenizer
        self._inner = tokenizer.backend_tokenizer
        decoder = str(self._inner.decoder)
        self._byte_level, self._byte_fallback = "ByteLevel(" in decoder, "ByteFallback(" in decoder
        added = tokenizer.added_tokens_decoder.items()
        self._special = {token_id for token_id, token in added if token.special}
        self._known: dict[int, bytes] = {}
        # the first call may change settings of the tokenizer, which must not happen while a thread decodes
        self.prompt("a")

    def prompt(self, text: str) -> list[int]:
        """Return the ids to go on from; raises InvalidRequest where the model has none for this text."""
        ids: list[int] = self._tokenizer(text, verbose=False).input_ids
        if not ids:
            raise InvalidRequest("prompt: the model's tokenizer makes no token of it")
        if max(ids) >= self._size:
            token = self._inner.id_to_token(max(ids))
            raise InvalidRequest(f"prompt: the model does not know the token {token!r}")
        return ids

    def token_bytes(self, token_id: int) -> bytes:
        """Return the bytes of one token; none for a special one, and for ids that only pad the model."""
        if token_id not in self._known:
            self._known[token_id] = self._bytes(token_id)
        return self._known[token_id]

    def _bytes(self, token_id: int) -> bytes:
        token = self._inner.id_to_token(token_id)
        if token is None or token_id in self._special:
            return b""
        if self._byte_level:
            spelt = [BYTE_OF_LETTER.get(letter) for letter in token]
            # tokens that were added later need not be spelt in letters for bytes
            return token.encode() if None in spelt else bytes(cast(list[int], spelt))
        if self._byte_fallback and (byte := BYTE.fullmatch(token)):
            return bytes([int(byte[1], 16)])
        once, twice = self._inner.decode([token_id]), self._inner.decode([token_id, token_id])
        return str(twice[len(once) :]).encode()


class HFRunner:
    """Computes one sequence after the other, each with a cache of its own that grows with it.

    Caches of different lengths make no tensor together, and padding them to one would have every sequence
    pay for the longest and copied whenever somebody comes or goes. So many streams share the time of one
    here, where the shipped model (`labkit.engine.runner`) computes them in one pass.

    Every layer keeps all positions, those with a sliding window too, as the scheduler counts them.

    Args:
        model: a `…ForCausalLM` of Transformers.
        prefix_tokens: the size of the prefix cache.
    """

    def __init__(self, model: Any, prefix_tokens: int = 0) -> None:
        self._model = model
        # without it the logits of a whole prompt are computed, and of all but the last nothing is used
        takes = inspect.signature(model.forward).parameters
        self._options = {"logits_to_keep": 1} if "logits_to_keep" in takes else {}
        self._caches: WeakKeyDictionary[Sequence, DynamicCache] = WeakKeyDictionary()
        self._store: dict[Sequence, Layers] = {}
        self._blocks: list[Layers] = [[]] * (prefix_tokens // BLOCK)

    @torch.inference_mode()
    def run(self, work: Many[Work]) -> list[int | None]:
        # those who were evicted gave their caches up; those who are gone took theirs along (weak keys)
        for sequence in [sequence for sequence in self._caches if sequence.slot is None]:
            del self._caches[sequence]
        rows = [self._compute(sequence, tokens) for sequence, tokens in work]
        due = [n for n, (sequence, tokens) in enumerate(work) if tokens == sequence.pending]
        chosen: list[int | None] = [None] * len(work)
        if due:
            samplers = [cast(SampledSequence, work[n][0]).sampler for n in due]
            tokens = sample(torch.stack([rows[n] for n in due]), samplers)
            for n, token in zip(due, tokens, strict=True):
                chosen[n] = token
        return chosen

    def _compute(self, sequence: Sequence, tokens: int) -> Tensor:
        """The logits [V] after so many more tokens of a sequence."""
        start = sequence.computed
        if start == 0:
            self._caches[sequence] = DynamicCache()
        ids = torch.tensor([sequence.tokens[start : start + tokens]], device=self._model.device)
        cache = self._caches[sequence]
        logits: Tensor = self._model(ids, past_key_values=cache, use_cache=True, **self._options).logits
        return logits[0, -1]

    def swap_out(self, sequence: Sequence) -> None:
        self._store[sequence] = _copy(self._caches.pop(sequence), 0, sequence.computed, "cpu")

    def swap_in(self, sequence: Sequence) -> None:
        device = self._model.device
        kept = self._store.pop(sequence)
        self._caches[sequence] = DynamicCache([(k.to(device), v.to(device)) for k, v in kept])

    def forget(self, sequence: Sequence) -> None:
        self._store.pop(sequence, None)

    def keep_blocks(self, sequence: Sequence, kept: Many[tuple[int, int]]) -> None:
        cache = self._caches[sequence]
        for number, place in kept:
            self._blocks[place] = _copy(cache, number * BLOCK, (number + 1) * BLOCK, self._model.device)

    def use_blocks(self, sequence: Sequence, places: Many[int]) -> None:
        layers = zip(*(self._blocks[place] for place in places), strict=True)
        joined = [tuple(torch.cat(parts, dim=2) for parts in zip(*layer, strict=True)) for layer in layers]
        self._caches[sequence] = DynamicCache(joined)


def _copy(cache: DynamicCache, start: int, end: int, device: Any) -> Layers:
    """A copy of some positions of a cache."""
    both = [(layer.keys[:, :, start:end], layer.values[:, :, start:end]) for layer in cast(Any, cache.layers)]
    return [(k.to(device, copy=True), v.to(device, copy=True)) for k, v in both]


class HFEngine(BatchedEngine):
    """Answers with a causal language model of Hugging Face Transformers (5.0 or later).

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
