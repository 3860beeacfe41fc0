"""The engine `tiny`, which runs the shipped model."""

from pathlib import Path
from typing import Any, Literal

import torch

from labkit.engine.batched import BatchedEngine
from labkit.engine.options import Scheduling
from labkit.engine.runner import ModelRunner
from labkit.errors import InvalidRequest, StartError
from labkit.models import invariance
from labkit.models.text import DEFAULT_WEIGHTS, TextModel
from labkit.models.tokenizer import Tokenizer

INVARIANT_ROWS = 8
"""With fewer, batches and prompts take many passes; with more, a single token pays for the padding."""


class LocalEngine(BatchedEngine):
    """Answers with the small language model in `labkit/models`.

    Args:
        batch_invariant: makes a text the same, bit for bit, whatever batch it is computed in. Without it,
            logits differ by some 1e-6 of their size, which changes a token only where two are almost equally
            likely. With it a single token takes up to twice as long, a batch of 32 two and a half times,
            a long prompt four times. The engine checks that this machine's libraries allow it
            (`labkit.models.invariance`), and otherwise does not start. MKL allows it on one thread.
        device: `cpu`, or `cuda` where torch has it. It sums in another order, so texts may differ.
        dtype: `bfloat16` keeps 8 bits of each number. Texts differ from those of `float32`.
        int8: rounds the weights to 8-bit integers, and what they multiply, scaled for the whole batch. Texts
            differ, and depend on what else is in the batch. For float32 on the CPU.
        weights: the folder of the weights and the tokenizer.
        scheduling: the fields of `labkit.engine.options.Scheduling`, such as `policy`, `seqs` or `kv_tokens`.

    Raises:
        StartError: the weights or the device are missing, or `batch_invariant` is not possible here.
        InvalidRequest: an option is out of range.
    """

    def __init__(
        self,
        *,
        batch_invariant: bool = False,
        device: Literal["cpu", "cuda"] = "cpu",
        dtype: Literal["float32", "bfloat16"] = "float32",
        int8: bool = False,
        weights: Path = DEFAULT_WEIGHTS,
        **scheduling: Any,
    ) -> None:
        options = Scheduling.checked(scheduling)
        if device == "cuda" and not torch.cuda.is_available():
            raise StartError("device: this PyTorch finds no CUDA device; use device=cpu")
        if int8 and (device, dtype) != ("cpu", "float32"):
            raise InvalidRequest("int8: it goes with device=cpu and dtype=float32 alone")
        try:
            model = TextModel.load(weights).converted(device, getattr(torch, dtype), int8)
            tokenizer = Tokenizer.load(weights / "tokenizer.json")
        except FileNotFoundError as error:
            raise StartError(str(error)) from None
        # before the runner measures layouts and the check below runs, because both depend on it
        torch.set_num_threads(options.threads)
        rows = INVARIANT_ROWS if batch_invariant else 0
        runner = ModelRunner(model, options.seqs, rows, options.prefix_cache)
        if batch_invariant and (cause := invariance.depends_on_company(runner.model, rows)):
            raise StartError(
                f"batch_invariant: this machine's libraries do not keep it: {cause} changes bits"
            )
        super().__init__(
            "tiny",
            runner,
            tokenizer,
            model.config.context,
            options,
        )
