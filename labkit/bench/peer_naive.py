"""Generation without a KV cache as a peer: labkit's own model, reading everything again for each token."""

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from time import process_time

from labkit.models import naive
from labkit.models.text import TextModel

PACKAGES = ("torch",)


def load(folder: Path) -> Callable[[list[list[int]], int], tuple[float, list[list[int]]]]:
    """Return what generates `tokens` for each prompt, and says the CPU seconds from the first to the last."""
    model = TextModel.load(folder)

    def generate(prompts: list[list[int]], tokens: int) -> tuple[float, list[list[int]]]:
        steps = naive.greedy(model, prompts)
        chosen = [next(steps)]
        begun = process_time()
        chosen += islice(steps, tokens - 1)
        return process_time() - begun, [list(row) for row in zip(*chosen, strict=True)]

    return generate
