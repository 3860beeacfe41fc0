"""Workloads: when requests arrive, how long they are, and how fast their readers read.

A workload is drawn from a seed, or read from a file with one line per request: JSON lines (`.jsonl`) or CSV
with a heading (`.csv`), with the fields of `Line`. Its requests are in order of arrival.
"""

import csv
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from math import isfinite, sqrt
from pathlib import Path
from random import Random
from typing import Annotated, Protocol

import msgspec
from msgspec import Meta

TOKEN_IDS = tuple(range(1, 1024))  # of the shipped tokenizer, without the id that ends a text
MIXED_SPEEDS = {8.0: 0.4, 15.0: 0.4, 20.0: 0.2}


def _check(holds: bool, message: str) -> None:
    if not holds:
        raise ValueError(message)


@dataclass(frozen=True, slots=True)
class Job:
    """One request.

    Args:
        arrival_s: when it arrives, in seconds from the start.
        prompt: token ids.
        output_tokens: the length of its answer.
        reader_tps: how fast its reader reads, in tokens per second.
        prefix: jobs with the same prefix, such as "group0:64", begin with the same tokens (here 64).
    """

    arrival_s: float
    prompt: tuple[int, ...]
    output_tokens: int
    reader_tps: float
    prefix: str = ""


Workload = tuple[Job, ...]


class Lengths(Protocol):
    """A distribution of numbers of tokens."""

    def draw(self, rng: Random) -> int:
        """Draw a number, at least 1."""


@dataclass(frozen=True)
class Uniform:
    """Every length from `low` to `high` is equally likely."""

    low: int
    high: int

    def __post_init__(self) -> None:
        _check(1 <= self.low <= self.high, f"{self}: 1 <= low <= high is needed")

    def draw(self, rng: Random) -> int:
        return rng.randint(self.low, self.high)


@dataclass(frozen=True)
class LogNormal:
    """Lengths whose logarithm is normal with deviation `sigma`, as the lengths of chats roughly are.

    Half of them are above `median`, a few far above it. Those below `low` become `low`, those above `high`
    become `high`.
    """

    median: float
    sigma: float
    low: int
    high: int

    def __post_init__(self) -> None:
        _check(1 <= self.low <= self.high, f"{self}: 1 <= low <= high is needed")
        _check(self.median > 0 and self.sigma >= 0, f"{self}: median > 0 and sigma >= 0 are needed")

    def draw(self, rng: Random) -> int:
        length = round(self.median * rng.lognormvariate(0, self.sigma))
        return min(self.high, max(self.low, length))


@dataclass(frozen=True)
class Shape:
    """What requests look like.

    Args:
        prompt, output: the lengths of prompts and answers.
        readers: the share of readers with each speed, as {tokens per second: share}.
        groups: if not 0, each prompt begins with the prefix of one of this many groups, drawn evenly, as
            prompts begin with the system prompt of their application.
        prefix_tokens: the length of these prefixes.
    """

    prompt: Lengths = LogNormal(median=48, sigma=0.7, low=8, high=256)
    output: Lengths = LogNormal(median=64, sigma=0.6, low=8, high=256)
    readers: Mapping[float, float] = field(default_factory=lambda: dict(MIXED_SPEEDS))
    groups: int = 0
    prefix_tokens: int = 0

    def __post_init__(self) -> None:
        shares = self.readers.values()
        _check(all(speed > 0 for speed in self.readers), "readers: speeds are above 0 tokens a second")
        _check(all(s >= 0 for s in shares) and sum(shares) > 0, "readers: shares are from 0 up, not all 0")
        _check((self.groups > 0) == (self.prefix_tokens > 0), "groups and prefix_tokens go together")


DEFAULT_SHAPE = Shape()


def poisson(rate: float, requests: int, *, shape: Shape = DEFAULT_SHAPE, seed: int = 0) -> Workload:
    """Requests that arrive independently of each other, `rate` per second on average.

    Raises:
        ValueError: a value is out of range, as in `bursts` and `ramp`.
    """
    _check(rate > 0, f"rate: above 0 requests a second, not {rate}")
    return _workload((time / rate for time in _unit_arrivals(requests, seed)), shape, seed)


def bursts(
    size: int, every_s: float, requests: int, *, shape: Shape = DEFAULT_SHAPE, seed: int = 0
) -> Workload:
    """`size` requests at once, every `every_s` seconds from 0 on; the last burst may be smaller."""
    _check(size > 0 and every_s > 0, f"size and every_s: above 0, not {size} and {every_s}")
    _check(requests > 0, f"requests: above 0, not {requests}")
    return _workload((index // size * every_s for index in range(requests)), shape, seed)


def ramp(
    from_rate: float, to_rate: float, requests: int, *, shape: Shape = DEFAULT_SHAPE, seed: int = 0
) -> Workload:
    """Poisson arrivals whose rate changes linearly from one rate to the other.

    The ramp is as long as `requests` arrivals take on average. Requests after its end arrive at `to_rate`.
    """
    _check(from_rate >= 0, f"from_rate: at least 0 requests a second, not {from_rate}")
    _check(to_rate > 0, f"to_rate: above 0 requests a second, not {to_rate}")
    _check(requests > 0, f"requests: above 0, not {requests}")
    when = _ramp_clock(from_rate, to_rate, requests)
    return _workload(map(when, _unit_arrivals(requests, seed)), shape, seed)


def _unit_arrivals(requests: int, seed: int) -> Iterator[float]:
    """The arrivals of a Poisson process of rate 1, the same for every rate and shape with this seed."""
    _check(requests > 0, f"requests: above 0, not {requests}")
    rng = Random(f"{seed}/arrivals")
    return accumulate(rng.expovariate(1.0) for _ in range(requests))


def _ramp_clock(first: float, last: float, requests: int) -> Callable[[float], float]:
    """When n arrivals are expected: the inverse of the rate's integral a·t + (b - a)·t²/(2·T)."""
    length_s = 2 * requests / (first + last)
    slope = (last - first) / length_s

    def when(expected: float) -> float:
        if expected >= requests:
            return length_s + (expected - requests) / last
        # this form of the root is defined for a slope of 0 too
        return 2 * expected / (first + sqrt(first * first + 2 * slope * expected))

    return when


def _workload(arrivals: Iterable[float], shape: Shape, seed: int) -> Workload:
    """Requests with these arrivals. Their lengths and readers depend on the seed alone."""
    rng = Random(f"{seed}/requests")
    speeds, shares = list(shape.readers), list(shape.readers.values())
    lines: list[Line] = []
    for arrival_s in arrivals:
        group = rng.randrange(shape.groups) if shape.groups else None
        prefix = "" if group is None else f"group{group}:{shape.prefix_tokens}"
        tokens = shape.prefix_tokens + shape.prompt.draw(rng)
        speed = rng.choices(speeds, shares)[0]
        lines.append(Line(arrival_s, tokens, shape.output.draw(rng), speed, prefix))
    return _jobs(lines, seed)


class Line(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """One request of a file. `prefix` is NAME:TOKENS; requests of one NAME begin with the same tokens."""

    arrival_s: Annotated[float, Meta(ge=0)]
    prompt_tokens: Annotated[int, Meta(ge=1, le=1_000_000)]
    output_tokens: Annotated[int, Meta(ge=1, le=1_000_000)]
    reader_tps: Annotated[float, Meta(gt=0)]
    prefix: Annotated[str, Meta(pattern=r"^([^:]+:[0-9]{1,7})?$")] = ""

    def __post_init__(self) -> None:
        _check(isfinite(self.arrival_s) and isfinite(self.reader_tps), "times and speeds are finite numbers")
        _check(self.prefix_tokens <= self.prompt_tokens, "`prefix` is longer than `prompt_tokens`")

    @property
    def prefix_tokens(self) -> int:
        return int(self.prefix.rpartition(":")[2] or 0)


def _jobs(lines: Iterable[Line], seed: int) -> Workload:
    """The jobs of lines, in order of arrival, with prompts drawn from the seed."""
    ordered = enumerate(sorted(lines, key=lambda line: line.arrival_s))
    return tuple(
        Job(line.arrival_s, _prompt(line, index, seed), line.output_tokens, line.reader_tps, line.prefix)
        for index, line in ordered
    )


def _prompt(line: Line, index: int, seed: int) -> tuple[int, ...]:
    name = line.prefix.rpartition(":")[0]
    prefix = Random(f"{seed}/prefix/{name}").choices(TOKEN_IDS, k=line.prefix_tokens)
    rest = Random(f"{seed}/prompt/{index}").choices(TOKEN_IDS, k=line.prompt_tokens - line.prefix_tokens)
    return (*prefix, *rest)


def save(jobs: Sequence[Job], path: Path) -> None:
    """Write a workload without its prompts, which `load` draws again from the seed.

    Raises:
        ValueError: the name ends neither in .jsonl nor in .csv.
    """
    lines = [
        Line(job.arrival_s, len(job.prompt), job.output_tokens, job.reader_tps, job.prefix) for job in jobs
    ]
    if _is_csv(path):
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(Line.__struct_fields__)
            writer.writerows(map(msgspec.structs.astuple, lines))
    else:
        path.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))


def load(path: Path, seed: int = 0) -> Workload:
    """Read a workload. A file has only the lengths of prompts, so their tokens are drawn from the seed.

    Raises:
        ValueError: a line is not a request (the message names the line), there are no lines, or the name
            ends neither in .jsonl nor in .csv.
    """
    read = _csv_lines if _is_csv(path) else _json_lines
    lines = list(read(path))
    _check(bool(lines), f"{path}: there are no requests; each needs a line")
    return _jobs(lines, seed)


def _is_csv(path: Path) -> bool:
    _check(path.suffix in (".csv", ".jsonl"), f"{path}: name it .jsonl (JSON lines) or .csv")
    return path.suffix == ".csv"


def _json_lines(path: Path) -> Iterator[Line]:
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        if not line.strip():
            continue
        try:
            yield msgspec.json.decode(line, type=Line)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}, line {number}: {error}") from None


def _csv_lines(path: Path) -> Iterator[Line]:
    # utf-8-sig, because spreadsheets write a byte order mark; replaced bytes fail as a value of their line
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        rows = csv.DictReader(file, restkey="more values than the heading has")
        for row in rows:
            try:
                yield msgspec.convert(row, Line, strict=False)
            except msgspec.ValidationError as error:
                raise ValueError(f"{path}, line {rows.line_num}: {error}") from None
