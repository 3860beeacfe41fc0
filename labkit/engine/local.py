"""The engine around the shipped model: what `tiny` means."""

from pathlib import Path
from typing import Literal

import torch

from labkit.engine.batched import PREFIX_CACHE, SEQS, THREADS, BatchedEngine
from labkit.engine.runner import ModelRunner
from labkit.engine.scheduler import Memory, Preemption
from labkit.errors import InvalidRequest, StartError
from labkit.models import invariance
from labkit.models.text import DEFAULT_WEIGHTS, TextModel
from labkit.models.tokenizer import Tokenizer

INVARIANT_ROWS = 8
"""With fewer, batches and prompts take many passes; with more, a single token pays for the padding."""


class LocalEngine(BatchedEngine):
    """Answers with the small language model in `labkit/models`.

    Args:
        interval_ms: the pace, the least time between two tokens of one stream; 0 is as fast as it can.
        policy: who computes when, one of `labkit.engine.policies`.
        budget: tokens computed in one iteration; 0 is the policy's own, which for most is no limit.
        seqs: sequences that hold keys and values at once.
        kv_tokens: tokens that they can hold together, from one context upwards; 0 is all that `seqs` can use.
        memory, preemption: see `labkit.engine.scheduler.Limits`.
        prefix_cache: tokens of the beginnings of texts to keep for others that begin alike; 0 for none.
        batch_invariant: whether a text is the same bit for bit in whatever batch it is computed. Without it
            logits differ by some 1e-6 of their size, which changes a token only where two are as good as
            equal. With it a single token takes up to twice as long, a batch of 32 two and a half times,
            a long prompt four times. The engine asks this machine's libraries whether they keep the promise
            (`labkit.models.invariance`), and does not start where they do not. MKL keeps it on one thread.
        device: `cpu`, or `cuda` where torch has it. It sums in another order: texts may differ.
        dtype: `bfloat16` keeps 8 bits of each number: other texts, of the same kind.
        int8: weights as 8-bit integers, and what they multiply too, scaled for the whole batch: other texts,
            which depend on who else is in the batch. For float32 on the CPU.
        threads: of torch, for this process; more than one helps a quiet machine and hurts a busy one.
        weights: the folder of the weights and the tokenizer.

    Raises:
        StartError: the weights are missing, or the device is, or `batch_invariant` cannot be kept here.
        InvalidRequest: an option is out of range.
    """

    def __init__(
        self,
        interval_ms: float = 0.0,
        policy: str = "sarathi",
        budget: int = 0,
        seqs: int = 64,
        kv_tokens: int = 0,
        memory: Memory = "reserve",
        preemption: Preemption = "recompute",
        prefix_cache: int = 0,
        batch_invariant: bool = False,
        device: Literal["cpu", "cuda"] = "cpu",
        dtype: Literal["float32", "bfloat16"] = "float32",
        int8: bool = False,
        threads: int = 1,
        weights: Path = DEFAULT_WEIGHTS,
    ) -> None:
        if device == "cuda" and not torch.cuda.is_available():
            raise StartError("device: this PyTorch finds no CUDA device; use device=cpu")
        if int8 and (device, dtype) != ("cpu", "float32"):
            raise InvalidRequest("int8: it goes with device=cpu and dtype=float32 alone")
        try:
            model = TextModel.load(weights).converted(device, getattr(torch, dtype), int8)
            tokenizer = Tokenizer.load(weights / "tokenizer.json")
        except FileNotFoundError as error:
            raise StartError(str(error)) from None
        # now, since what is measured and asked here depends on it
        torch.set_num_threads(THREADS(threads))
        rows = INVARIANT_ROWS if batch_invariant else 0
        runner = ModelRunner(model, SEQS(seqs), rows, PREFIX_CACHE(prefix_cache))
        if batch_invariant and (cause := invariance.depends_on_company(runner.model, rows)):
            raise StartError(
                f"batch_invariant: this machine's libraries do not keep it: {cause} changes bits"
            )
        super().__init__(
            "tiny",
            runner,
            tokenizer,
            context=model.config.context,
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
