"""Turns a scheduler's records into a timeline of each request and the figures of the run."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import inf
from statistics import fmean

from labkit.engine.trace import Arrived, Iteration, Moved, Record, State
from labkit.figures import reading
from labkit.figures.metrics import Figures, figures_of_times, meets, percentile

PREEMPTED: tuple[State, ...] = ("evicted", "swapped")


@dataclass
class Timeline:
    """One request: its sizes, the times of its tokens, and its states, each with the time when it began.

    A `reader_tps` of 0 stands for a reader who takes everything at once: its stalls, fluidity and QoE are not
    defined.
    """

    name: str
    arrival_s: float
    reader_tps: float
    prompt_tokens: int
    max_tokens: int
    token_times_s: list[float] = field(default_factory=list)
    states: list[tuple[float, State]] = field(default_factory=list)

    @property
    def finished(self) -> bool:
        return self._ended_as("finished")

    @property
    def paced(self) -> bool:
        return 0 < self.reader_tps < inf

    @property
    def waits_s(self) -> list[float]:
        """When each token came, in seconds after the request, as `labkit.figures.reading` takes it."""
        return [time - self.arrival_s for time in self.token_times_s]

    @property
    def preemptions(self) -> int:
        """How often it was evicted or swapped out."""
        return sum(state in PREEMPTED for _, state in self.states)

    def figures(self) -> Figures:
        return figures_of_times(self.arrival_s, self.token_times_s)

    def stall_s(self) -> float:
        return sum(reading.stalls(self.waits_s, self.reader_tps)) if self.paced else 0.0

    def effective_tokens(self) -> float:
        """Tokens weighted by their use to the reader; all count in full for one who takes them at once."""
        if not self.paced:
            return len(self.token_times_s)
        length = len(self.token_times_s) if self._ended_as("finished", "dropped") else self.max_tokens
        return reading.effective_tokens(self.waits_s, self.reader_tps, length)

    def fluidity(self, ttft_s: float) -> float | None:
        """The share of tokens on time, for D_p = `ttft_s` and D_d = 1 / `reader_tps`; 0 if no token came."""
        if not self.paced:
            return None
        return reading.fluidity(self.waits_s, ttft_s=ttft_s, tbt_s=1 / self.reader_tps) or 0.0

    def qoe(self, ttft_s: float) -> float | None:
        """Quality of experience; 0 if no token came."""
        if not self.paced:
            return None
        return reading.qoe(self.waits_s, tokens_per_s=self.reader_tps, ttft_s=ttft_s) or 0.0

    def good(self, ttft_s: float) -> bool:
        """Whether the first token came within `ttft_s` and the rest as fast as the reader reads."""
        tpot_ms = 1e3 / self.reader_tps if self.paced else inf
        return meets(self.figures(), ttft_ms=ttft_s * 1e3, tpot_ms=tpot_ms)

    def _ended_as(self, *states: State) -> bool:
        return bool(self.states) and self.states[-1][1] in states


def timelines(records: Iterable[Record]) -> list[Timeline]:
    """Return a timeline for each request, in order of arrival, without those from before the first record."""
    by_number: dict[int, Timeline] = {}
    for record in records:
        if isinstance(record, Arrived):
            by_number[record.request] = Timeline(
                record.name, record.at_s, record.reader_tps, record.prompt_tokens, record.max_tokens
            )
        elif isinstance(record, Moved):
            if record.request in by_number:
                by_number[record.request].states.append((record.at_s, record.state))
        else:
            for request in record.emitted:
                if request in by_number:
                    by_number[request].token_times_s.append(record.end_s)
    return sorted(by_number.values(), key=lambda timeline: timeline.arrival_s)


@dataclass(frozen=True)
class Summary:
    """The figures of a run; an undefined figure is None. Percentiles are by nearest rank.

    Args:
        total_s: from the first arrival to the last record.
        ttft_p50_s, ttft_p99_s: over the requests that got a token.
        itl_p99_ms: over the gaps of all requests together.
        fluidity, stall_s, qoe: means over the requests whose reader has a speed. A request that got no token
            counts as 0 in fluidity and QoE.
        goodput: finished requests per second that meet the objectives of TTFT and TPOT.
        preemptions: evictions and swaps.
        batch: the mean number of requests that decode together, over the iterations with any decode.
        kv_peak: the most KV tokens held.
    """

    requests: int
    finished: int
    tokens: int
    total_s: float
    tokens_per_s: float | None
    effective_tokens_per_s: float | None
    ttft_p50_s: float | None
    ttft_p99_s: float | None
    itl_p99_ms: float | None
    fluidity: float | None
    stall_s: float | None
    qoe: float | None
    goodput: float | None
    preemptions: int
    batch: float | None
    kv_peak: int


def summarize(records: Sequence[Record], *, ttft_s: float = 1.0) -> Summary:
    """The figures of a run.

    Args:
        ttft_s: when a first token is due: D_p of fluidity, goodput's objective of TTFT, and the TTFT of QoE's
            ideal server. The other tokens are due at each reader's speed, so goodput's objective of TPOT is
            1 / `reader_tps`.
    """
    requests = timelines(records)
    figures = [request.figures() for request in requests]
    first_s = requests[0].arrival_s if requests else 0.0
    total_s = max(map(_end_s, records), default=first_s) - first_s
    waits = [f.ttft_ms / 1e3 for f in figures if f.ttft_ms is not None]
    iterations = [record for record in records if isinstance(record, Iteration)]
    tokens = sum(f.tokens for f in figures)
    return Summary(
        requests=len(requests),
        finished=sum(request.finished for request in requests),
        tokens=tokens,
        total_s=total_s,
        tokens_per_s=_rate(tokens, total_s),
        effective_tokens_per_s=_rate(sum(r.effective_tokens() for r in requests), total_s),
        ttft_p50_s=percentile(waits, 50),
        ttft_p99_s=percentile(waits, 99),
        itl_p99_ms=percentile([gap for f in figures for gap in f.itl_ms], 99),
        fluidity=_mean(request.fluidity(ttft_s) for request in requests),
        stall_s=_mean(request.stall_s() for request in requests if request.paced),
        qoe=_mean(request.qoe(ttft_s) for request in requests),
        goodput=_rate(sum(request.finished and request.good(ttft_s) for request in requests), total_s),
        preemptions=sum(request.preemptions for request in requests),
        batch=_mean(iteration.decodes for iteration in iterations if iteration.decodes),
        kv_peak=max((iteration.kv_tokens for iteration in iterations), default=0),
    )


def _end_s(record: Record) -> float:
    return record.end_s if isinstance(record, Iteration) else record.at_s


def _rate(count: float, seconds: float) -> float | None:
    return count / seconds if seconds > 0 else None


def _mean(values: Iterable[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return fmean(defined) if defined else None
