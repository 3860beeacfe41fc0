"""Generation without a KV cache as a peer: a Transformers model that reads everything again for each token.

Many tutorials have this loop: `model(all tokens so far)`, the last logits, one more token.
"""

from collections.abc import Callable
from pathlib import Path
from time import process_time
from typing import Any

from transformers import AutoModelForCausalLM, BatchEncoding

PACKAGES = ("transformers", "torch")


def load(folder: Path) -> Callable[[list[list[int]], int], tuple[float, list[list[int]]]]:
    """Return `generate`: it returns the CPU seconds from the first new tokens to the last, and the tokens."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype="float32", local_files_only=True)
    model.eval().requires_grad_(False)

    def generate(prompts: list[list[int]], tokens: int) -> tuple[float, list[list[int]]]:
        rows = [list(prompt) for prompt in prompts]
        begun = 0.0
        for _ in range(tokens):
            logits = model(**BatchEncoding({"input_ids": rows}, tensor_type="pt")).logits
            rows = [[*row, token] for row, token in zip(rows, logits[:, -1].argmax(-1).tolist(), strict=True)]
            begun = begun or process_time()
        return process_time() - begun, [row[len(prompts[0]) :] for row in rows]

    return generate
