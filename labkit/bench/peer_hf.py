"""Hugging Face Transformers as a peer: `generate` as it comes, with its dynamic cache, greedy and batched."""

from collections.abc import Callable
from pathlib import Path
from time import process_time
from typing import Any

from transformers import AutoModelForCausalLM, BatchEncoding

PACKAGES = ("transformers", "torch")


class TokenTimes:
    """A logits processor that changes nothing; `times` gets the CPU seconds at each token's logits."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        self.times.append(process_time())
        return scores


def load(folder: Path) -> Callable[[list[list[int]], int], tuple[float, list[list[int]]]]:
    """Return `generate`: it returns the CPU seconds from the first new tokens to the last, and the tokens."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype="float32", local_files_only=True)
    model.generation_config.eos_token_id = None  # every row goes on to the end

    def generate(prompts: list[list[int]], tokens: int) -> tuple[float, list[list[int]]]:
        ones = [[1] * len(prompt) for prompt in prompts]
        batch = BatchEncoding({"input_ids": prompts, "attention_mask": ones}, tensor_type="pt")
        clock = TokenTimes()
        rows = model.generate(**batch, max_new_tokens=tokens, do_sample=False, logits_processor=[clock])
        return clock.times[-1] - clock.times[0], rows[:, len(prompts[0]) :].tolist()

    return generate
