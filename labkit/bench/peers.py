"""How fast labkit's engine decodes beside its peers: the same weights and prompts, in float32, on one thread.

A peer is a process that is told over a pipe what to generate greedily (`labkit.bench.peer_loop`). In every
round all are asked, one at a time, in an order that turns, and labkit's rate is divided by each peer's of the
same round. A rate is of decoding alone: from the first new tokens, when all prompts have been read, to the
last. It is per second of CPU time, which on one thread is what a clock shows on a quiet machine, and leaves
out the time that others take on a busy one.
"""

import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from types import MappingProxyType

from labkit.bench import peer_models
from labkit.bench.peer_process import Answer, PeerProcess
from labkit.bench.rounds import Progress, rotated, silent
from labkit.errors import StartError

LLAMA_PYTHON = "LABKIT_LLAMA_PYTHON"
OWN, HF, LLAMA, NAIVE = "labkit", "Hugging Face", "llama.cpp", "no KV cache"
FILES = {OWN: "peer_labkit.py", HF: "peer_hf.py", LLAMA: "peer_llama.py", NAIVE: "peer_naive.py"}
WARM_UP_TOKENS = 4
Answers = dict[str, Answer]

# How many times a peer's rate labkit's is to be, by batch; judged on one model, with answers of one length.
TARGETS = MappingProxyType(
    {
        HF: {1: 1.6, 8: 2.0, 32: 1.3},
        LLAMA: {1: 0.8, 8: 1.3, 32: 1.5},
        NAIVE: {1: 10.0},
    }
)
TARGET_MODEL = "random"
TARGET_TOKENS = 200


@dataclass(frozen=True)
class Rate:
    """One peer with one model and batch: tokens per CPU second, of all sequences together.

    `ratio` is labkit's rate over the peer's, `same_tokens` the share (0 to 1) of its tokens that labkit has.
    """

    peer: str
    model: str
    batch: int
    rounds_tokens_s: list[float]
    tokens_s: float
    ratio: float
    same_tokens: float
    target: float | None = None

    @property
    def met(self) -> bool | None:
        """None where no target is set."""
        return None if self.target is None else self.ratio >= self.target


@dataclass(frozen=True)
class Peers:
    """`rates` by model and batch, labkit first; `skipped` says of a peer that is not here what it needs."""

    tokens: int
    prompt_tokens: int
    rounds: int
    parameters: dict[str, int]
    versions: dict[str, str]
    skipped: dict[str, str]
    rates: list[Rate]


def measure(
    *,
    models: Sequence[str] = peer_models.NAMES,
    batches: Sequence[int] = (1, 8, 32),
    tokens: int = TARGET_TOKENS,
    rounds: int = 5,
    progress: Progress = silent,
) -> Peers:
    """Measure; about three minutes.

    Args:
        tokens: how many every sequence generates, after the same number of prompt tokens.

    Raises:
        StartError: a peer broke, or the shipped weights are missing.
    """
    with TemporaryDirectory() as place, ExitStack() as stack:
        bench = _Bench(stack)
        progress("engine: models and peers", 0.0)
        folders = {name: Path(place, name) for name in models}
        parameters = {name: peer_models.write(name, folder) for name, folder in folders.items()}
        prompts = peer_models.prompts(max(batches))
        versions = bench.ready()
        cases = [(model, batch) for model in models for batch in batches]
        rates: list[Rate] = []
        for index, (model, batch) in enumerate(cases):
            names = bench.names(batch)
            bench.ask(names, folders[model], prompts[:batch], WARM_UP_TOKENS)
            answers: list[Answers] = []
            for turn in range(rounds):
                progress(f"engine: {model}, batch {batch}", (index + turn / rounds) / len(cases))
                answers.append(bench.ask(rotated(names, turn), folders[model], prompts[:batch], tokens))
            rates += [_rate(name, model, batch, answers) for name in names]
    return Peers(tokens, peer_models.PROMPT_TOKENS, rounds, parameters, versions, bench.skipped, rates)


def _rate(name: str, model: str, batch: int, answers: Sequence[Answers]) -> Rate:
    rates = [_tokens_s(answer[name]) for answer in answers]
    ratios = [_tokens_s(answer[OWN]) / rate for answer, rate in zip(answers, rates, strict=True)]
    same = [_same(answer[name].tokens, answer[OWN].tokens) for answer in answers]
    judged = model == TARGET_MODEL and len(answers[0][OWN].tokens[0]) == TARGET_TOKENS
    target = TARGETS.get(name, {}).get(batch) if judged else None
    return Rate(name, model, batch, rates, median(rates), median(ratios), min(same), target)


def _tokens_s(answer: Answer) -> float:
    # the first token of each row was there when the clock started
    return sum(len(row) - 1 for row in answer.tokens) / answer.seconds


def _same(rows: list[list[int]], others: list[list[int]]) -> float:
    pairs = [pair for row, other in zip(rows, others, strict=True) for pair in zip(row, other, strict=True)]
    return sum(one == other for one, other in pairs) / len(pairs)


class _Bench:
    """The peers that are here, each in its process, and what the others need."""

    def __init__(self, stack: ExitStack) -> None:
        self.skipped: dict[str, str] = {}
        self._peers: dict[str, PeerProcess] = {}
        for name, file in FILES.items():
            self._start(stack, name, file)

    def _start(self, stack: ExitStack, name: str, file: str) -> None:
        python = os.environ.get(LLAMA_PYTHON, "") if name == LLAMA else sys.executable
        if name in (HF, NAIVE) and find_spec("transformers") is None:
            self.skipped[name] = 'pip install "labkit[hf]"'
        elif not python:
            self.skipped[name] = f"{LLAMA_PYTHON} is to name a Python with llama-cpp-python and gguf"
        else:
            try:
                self._peers[name] = stack.enter_context(PeerProcess(name, file, python))
            except StartError as error:
                self.skipped[name] = str(error)

    def ready(self) -> dict[str, str]:
        """Wait for all of them and return their versions; raises StartError if labkit itself broke."""
        versions: dict[str, str] = {}
        for name, peer in list(self._peers.items()):
            try:
                versions |= peer.ready()
            except StartError as error:
                if name == OWN:
                    raise
                self.skipped[name] = str(error)
                del self._peers[name]
        return versions

    def names(self, batch: int) -> list[str]:
        """Who takes part; without a cache a batch takes minutes and shows nothing more."""
        return [name for name in self._peers if batch == 1 or name != NAIVE]

    def ask(self, names: Sequence[str], folder: Path, prompts: list[list[int]], tokens: int) -> Answers:
        """Everybody's answer, one after the other."""
        return {name: self._peers[name].ask(folder, prompts, tokens) for name in names}
