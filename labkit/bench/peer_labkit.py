"""labkit's own engine among its peers: whole iterations of the core, with policy, forward pass and sampling.

It leaves out what a server adds, streams and detokenizing, as the peers do. The slots for keys and values
stay from one request to the next, as in a server.
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
    """Return `generate`: it returns the CPU seconds from the first new tokens to the last, and the tokens."""
    model = TextModel.load(folder)
    runner = cache(lambda slots: ModelRunner(model, slots))
    floors_of = cache(lambda slots: asdict(_floors(model, runner(slots), slots)))

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
        seconds = process_time() - begun
        return seconds, [sequence.tokens[sequence.prompt_tokens :] for sequence in sequences], floors_of(seqs)

    return generate


def _floors(model: TextModel, runner: ModelRunner, rows: int) -> Floors:
    """Measure the least times of a pass of one token for each of `rows` sequences."""
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
