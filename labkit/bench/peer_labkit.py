"""labkit's own engine among its peers: whole iterations of the core, with policy, forward pass and sampling.

What a server adds, streams and detokenizing, is left out here as with the peers. The slots for keys and
values stay from one request to the next, as in a server.
"""

from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

from labkit.bench.bounds import Floors
from labkit.engine.core import Core
from labkit.engine.policies.fcfs import Fcfs
from labkit.engine.runner import ModelRunner, SampledSequence
from labkit.engine.sampling import Sampler
from labkit.engine.scheduler import Limits, blocks
from labkit.models import floors
from labkit.models.packed import weights
from labkit.models.ragged import Part, step
from labkit.models.text import TextModel

PACKAGES = ("labkit", "torch")


def load(folder: Path) -> Callable[[list[list[int]], int], tuple[float, list[list[int]], dict[str, Any]]]:
    """Return what generates `tokens` for each prompt, and says the CPU seconds from the first to the last."""
    model = TextModel.load(folder)
    runner = cache(lambda slots: ModelRunner(model, slots))
    measured = cache(lambda slots: asdict(_floors(model, runner(slots), slots)))

    def generate(prompts: list[list[int]], tokens: int) -> tuple[float, list[list[int]], dict[str, Any]]:
        seqs = len(prompts)
        limits = Limits(seqs * blocks(model.config.context), seqs)
        core = Core(runner(seqs), Fcfs(), limits, perf_counter)
        sequences = [
            SampledSequence(str(n), list(prompt), tokens, float(n)) for n, prompt in enumerate(prompts)
        ]
        for sequence in sequences:
            sequence.sampler = Sampler(temperature=0)
            core.add(sequence)
        core.iterate()  # reads all the prompts, and chooses the first tokens
        begun = process_time()
        while core.running:
            core.iterate()
        took = process_time() - begun
        return took, [sequence.tokens[sequence.prompt_tokens :] for sequence in sequences], measured(seqs)

    return generate


def _floors(model: TextModel, runner: ModelRunner, rows: int) -> Floors:
    """What a pass of one token for each of so many sequences takes at the least."""
    shapes = tuple((len(weight), weight.shape[1]) for weight in weights(model))
    numbers = sum(outputs * inputs for outputs, inputs in shapes)
    parts = [Part(slot, 0, [0]) for slot in range(rows)]
    return Floors(
        weights_bytes=4 * numbers,
        reading_s=floors.reading_s(4 * numbers),
        flops=2 * numbers * rows,
        products_s=floors.products_s(shapes, rows),
        operations=floors.operations(lambda: step(runner.model, runner.pool, parts)),
        starting_s=floors.starting_s(),
    )
