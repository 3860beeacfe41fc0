"""How fast labkit's engine decodes beside its peers: the same weights and prompts, in float32, on one thread.

A peer is a process that generates tokens greedily (`labkit/bench/peer_child.py`). In every round all peers
answer, one at a time, in an order that turns; then labkit's rate is divided by each peer's of the same round.
A rate covers decoding alone, from the first new tokens, when the prompts are read, to the last. It is per
second of CPU time. On one thread and a quiet machine this equals wall-clock time; on a busy machine it leaves
out the time that other processes take.
"""

import math
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from types import MappingProxyType

from rich.console import Group, RenderableType
from rich.text import Text

from labkit.bench import peer_models
from labkit.bench.bounds import Bound, Floors, bound_of
from labkit.bench.peer_process import Generation, PeerProcess
from labkit.bench.rounds import BenchOptions, Progress, rotated, silent
from labkit.bench.table import met, number, table
from labkit.errors import StartError

LLAMA_PYTHON = "LABKIT_LLAMA_PYTHON"
OWN, HF, LLAMA, NAIVE = "labkit", "Hugging Face", "llama.cpp", "no KV cache"
FILES = {OWN: "peer_labkit.py", HF: "peer_hf.py", LLAMA: "peer_llama.py", NAIVE: "peer_naive.py"}
WARM_UP_TOKENS = 4
Generations = dict[str, Generation]

# The least ratio of labkit's rate to a peer's, by batch, for one model and answers of one length. Without a
# cache a token takes longer the more tokens precede it, so that peer is judged behind LATE tokens.
TARGETS = MappingProxyType({HF: {1: 1.6, 8: 2.0, 32: 1.3}, LLAMA: {1: 0.8, 8: 1.3, 32: 1.5}})
LATE_TARGET = 10.0
TARGET_MODEL = "random"
TARGET_TOKENS = 200
LATE, LATE_TOKENS = 200, 32


@dataclass(frozen=True)
class Case:
    """One task for all peers: continue each prompt of a batch by `tokens` tokens."""

    model: str
    batch: int
    prompt_tokens: int
    tokens: int

    @property
    def late(self) -> bool:
        """Whether this case shows what a long text costs without a cache."""
        return self.prompt_tokens >= LATE

    def target(self, peer: str) -> float | None:
        """The least ratio of labkit's rate to this peer's; None if there is no target."""
        if self.model != TARGET_MODEL:
            return None
        if self.late:
            return LATE_TARGET if peer == NAIVE else None
        return TARGETS.get(peer, {}).get(self.batch) if self.tokens == TARGET_TOKENS else None


@dataclass(frozen=True)
class Rate:
    """One peer in one case: tokens per CPU second, of all sequences together.

    `ratio` is labkit's rate over the peer's; the target is for this ratio. `same_tokens` is the share of the
    peer's tokens (0 to 1) that labkit generated too. `bound` is what its pass spends most time on, if known.
    """

    peer: str
    case: Case
    rounds_tokens_s: list[float]
    tokens_s: float
    ratio: float
    same_tokens: float
    target: float | None = None
    bound: Bound | None = None

    @property
    def met(self) -> bool | None:
        """Whether the ratio reaches the target; None if there is no target."""
        return None if self.target is None else self.ratio >= self.target


@dataclass(frozen=True)
class Peers:
    """The result: `rates` by case, labkit first, and `floors` of this machine by model and batch.

    `skipped` says what each missing peer needs.
    """

    rounds: int
    parameters: dict[str, int]
    versions: dict[str, str]
    skipped: dict[str, str]
    rates: list[Rate]
    floors: dict[str, dict[int, Floors]] = field(default_factory=dict)


def run(options: BenchOptions, progress: Progress) -> Peers:
    return measure(tokens=32, rounds=1, progress=progress) if options.quick else measure(progress=progress)


def tables(result: Peers) -> RenderableType:
    """Draw a table for each model; below them, this machine's floors, and the missing peers with the reason.

    The share of equal tokens is rounded down, so that 100% means all of them.
    """
    headings = [
        "",
        "batch ×\ntokens",
        "tokens/s\nof CPU",
        "labkit\nis",
        "same\ntext",
        "target",
        "bound by,\npart",
    ]
    models = [
        table(
            f"Decoding with the {model} model, {parameters / 1e6:.1f} million parameters",
            headings,
            [_rate_row(rate) for rate in result.rates if rate.case.model == model],
        )
        for model, parameters in result.parameters.items()
    ]
    versions = ", ".join(f"{name} {version}" for name, version in result.versions.items())
    return Group(
        *models,
        *(
            _floors_line(model, batch, floors)
            for model, of_model in result.floors.items()
            for batch, floors in of_model.items()
        ),
        Text("The target is for “labkit is”: labkit's rate over the peer's in the same rounds.", style="dim"),
        Text(f"float32, one thread, greedy, medians of {result.rounds}; {versions}"),
        *(Text(f"{name} is skipped: {why}", style="yellow") for name, why in result.skipped.items()),
    )


def _rate_row(rate: Rate) -> list[str]:
    ratio = "" if rate.peer == OWN else f"{rate.ratio:.2f}×"
    target = "" if rate.target is None else f"≥ {rate.target:g}× {met(bool(rate.met))}"
    sizes = f"{rate.case.batch} × {rate.case.prompt_tokens}+{rate.case.tokens}"
    bound = "" if rate.bound is None else f"{rate.bound.by} {rate.bound.share:.0%}"
    return [
        rate.peer,
        sizes,
        number(rate.tokens_s, 0),
        ratio,
        f"{math.floor(100 * rate.same_tokens)}%",
        target,
        bound,
    ]


def _floors_line(model: str, batch: int, floors: Floors) -> Text:
    """The floors that the shares of a model's rows refer to."""
    read, multiply = f"{floors.gigabytes_s:.0f} GB/s", f"{floors.gflops_s:.0f} GFLOP/s"
    dispatch = f"{floors.operations} × {floors.starting_s * 1e6:.1f} µs"
    line = f"{model}, batch {batch}: weights {read}, products {multiply}, dispatch {dispatch}"
    return Text(line, style="dim")


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
        tokens: how many every sequence generates. Each batch is one case; one more case, a single sequence
            behind a long text, is for the peer without a cache.

    Raises:
        StartError: a peer broke, or the shipped weights are missing.
    """
    with TemporaryDirectory() as place, ExitStack() as stack:
        bench = _Bench(stack)
        progress("engine: models and peers", 0.0)
        folders = {name: Path(place, name) for name in models}
        parameters = {name: peer_models.write(name, folder) for name, folder in folders.items()}
        versions = bench.ready()
        cases = [case for model in models for case in _cases(model, batches, tokens)]
        rates: list[Rate] = []
        floors: dict[str, dict[int, Floors]] = {model: {} for model in models}
        for index, case in enumerate(cases):
            names, prompts = bench.names(case), peer_models.prompts(case.batch, case.prompt_tokens)
            bench.ask(names, folders[case.model], prompts, WARM_UP_TOKENS)
            answers: list[Generations] = []
            for turn in range(rounds):
                progress(f"engine: {case.model}, batch {case.batch}", (index + turn / rounds) / len(cases))
                answers.append(bench.ask(rotated(names, turn), folders[case.model], prompts, case.tokens))
            rates += [_rate(name, case, answers) for name in names]
            if (least := _floors(answers)) is not None:
                floors[case.model][case.batch] = least
    return Peers(rounds, parameters, versions, bench.skipped, rates, floors)


def _cases(model: str, batches: Sequence[int], tokens: int) -> list[Case]:
    short = [Case(model, batch, peer_models.PROMPT_TOKENS, tokens) for batch in batches]
    return [*short, Case(model, 1, LATE, min(tokens, LATE_TOKENS))]


def _rate(name: str, case: Case, answers: Sequence[Generations]) -> Rate:
    rates = [_tokens_s(answer[name]) for answer in answers]
    ratios = [_tokens_s(answer[OWN]) / rate for answer, rate in zip(answers, rates, strict=True)]
    same = [_same(answer[name].tokens, answer[OWN].tokens) for answer in answers]
    rate = median(rates)
    return Rate(
        name,
        case,
        rates,
        rate,
        median(ratios),
        min(same),
        case.target(name),
        _bound(name, case, answers, rate),
    )


def _floors(answers: Sequence[Generations]) -> Floors | None:
    fields = answers[0][OWN].floors
    return None if fields is None else Floors(**fields)


def _bound(name: str, case: Case, answers: Sequence[Generations], tokens_s: float) -> Bound | None:
    """What bounds a peer's pass; None for the peer without a cache, for whose pass no floor is measured."""
    floors = _floors(answers)
    if floors is None or name == NAIVE:
        return None
    return bound_of(floors, case.batch / tokens_s, counted=name == OWN)


def _tokens_s(answer: Generation) -> float:
    # the clock starts when the first token of each row is there
    return sum(len(row) - 1 for row in answer.tokens) / answer.seconds


def _same(rows: list[list[int]], others: list[list[int]]) -> float:
    pairs = [pair for row, other in zip(rows, others, strict=True) for pair in zip(row, other, strict=True)]
    return sum(one == other for one, other in pairs) / len(pairs)


class _Bench:
    """The peers that are installed, each in its process, and what the missing ones need."""

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

    def names(self, case: Case) -> list[str]:
        """The peers that take part. Without a cache a batch takes minutes and shows nothing new."""
        others = {HF, LLAMA} if case.late else set() if case.batch == 1 else {NAIVE}
        return [name for name in self._peers if name not in others]

    def ask(self, names: Sequence[str], folder: Path, prompts: list[list[int]], tokens: int) -> Generations:
        """Ask the peers, one after another, and return their answers."""
        return {name: self._peers[name].ask(folder, prompts, tokens) for name in names}
