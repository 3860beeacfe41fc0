"""Every figure of a delivery, derived here and only here: of recordings, traces and simulations.

For a request sent (in a trace: arrived) at s, whose n tokens became readable at t1..tn on the same clock:

    TTFT     t1 - s              time to first token
    ITL      t(i+1) - t(i)       inter-token latency; many are 0 where a chunk brought several tokens
    ICL      the same between chunks, the reads that brought at least one token
    TPOT     (tn - t1) / (n - 1) time per output token, as vLLM defines it; undefined below two tokens
    E2E      tn - s
    jitter   p99 - p50 of ITL
    goodput  requests per second that meet a stated TTFT and TPOT objective

What the delivery is worth to a reader at a given speed (stalls, fluidity, effective tokens, QoE) is
`labkit.figures.reading`'s; `readable_s` makes its times of a recording.

Times are seconds in arguments called `_s`, milliseconds where called `_ms`, nanoseconds where `_ns`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil

from labkit.client import Recording
from labkit.events import Token
from labkit.figures import reading
from labkit.figures.reading import digested as digested

HOPS = ("sampled", "queued", "flushed", "written", "received")


def percentile(values: Sequence[float], p: float) -> float | None:
    """The p-th percentile by nearest rank: the smallest value that at least p% do not exceed.

    None where there are no values: an undefined figure is not a zero.

    Raises:
        ValueError: p is not within 0 < p <= 100.
    """
    if not 0 < p <= 100:
        raise ValueError(f"a percentile lies within 0 < p <= 100, not {p}")
    if not values:
        return None
    # Rounded first: 0.28 * 25 is a hair above 7 in floating point, and must not become rank 8.
    return sorted(values)[ceil(round(p * len(values) / 100, 9)) - 1]


def arrivals(recording: Recording) -> list[int]:
    """When each token became readable, in ns of the client's clock, in order.

    A token without text (half a character, the beginning of what may be a stop string) becomes readable
    with the next that has some; those after the last text never do.
    """
    times: list[int] = []
    unreadable = 0
    for chunk in recording.chunks:
        for event in chunk.events:
            if not isinstance(event, Token):
                continue
            unreadable += 1
            if event.text:
                times += [chunk.received_ns] * unreadable
                unreadable = 0
    return times


def readable_s(recording: Recording) -> list[float]:
    """When each token became readable, in seconds after the request was sent."""
    return [(time - recording.sent_ns) / 1e9 for time in arrivals(recording)]


def chunk_arrivals(recording: Recording) -> list[int]:
    """When each read that brought at least one token ended, in ns."""
    return [c.received_ns for c in recording.chunks if any(isinstance(event, Token) for event in c.events)]


def gaps_ms(times_ns: Sequence[int]) -> list[float]:
    return [(later - earlier) / 1e6 for earlier, later in pairwise(times_ns)]


@dataclass(frozen=True)
class Figures:
    """What one request amounts to; None where it is undefined."""

    tokens: int
    chunks: int
    ttft_ms: float | None
    tpot_ms: float | None
    e2e_ms: float | None
    itl_ms: list[float]
    icl_ms: list[float]

    @property
    def itl_p50_ms(self) -> float | None:
        return percentile(self.itl_ms, 50)

    @property
    def itl_p99_ms(self) -> float | None:
        return percentile(self.itl_ms, 99)

    @property
    def icl_p50_ms(self) -> float | None:
        return percentile(self.icl_ms, 50)

    @property
    def jitter_ms(self) -> float | None:
        p50, p99 = self.itl_p50_ms, self.itl_p99_ms
        return None if p50 is None or p99 is None else p99 - p50


def figures(recording: Recording) -> Figures:
    """Derive all figures of one request."""
    return _derive(recording.sent_ns, arrivals(recording), chunk_arrivals(recording))


def figures_of_times(arrival_s: float, times_s: Sequence[float]) -> Figures:
    """All figures of one request whose tokens came one by one at these times, to the nanosecond."""
    times = [round(time * 1e9) for time in times_s]
    return _derive(round(arrival_s * 1e9), times, times)


def _derive(sent_ns: int, times: Sequence[int], chunks: Sequence[int]) -> Figures:
    n = len(times)
    return Figures(
        tokens=n,
        chunks=len(chunks),
        ttft_ms=(times[0] - sent_ns) / 1e6 if n else None,
        tpot_ms=(times[-1] - times[0]) / 1e6 / (n - 1) if n > 1 else None,
        e2e_ms=(times[-1] - sent_ns) / 1e6 if n else None,
        itl_ms=gaps_ms(times),
        icl_ms=gaps_ms(chunks),
    )


def lags_ms(recording: Recording) -> dict[str, list[float]]:
    """One-way lag of each hop, in ms per token, from the stamps that travelled with the tokens.

    Keys are `"sampled→queued"` and so on to `"written→received"`. Only for a server on this host, whose
    monotonic clock is also the client's. Tokens without stamps are passed over.
    """
    lags: dict[str, list[float]] = {f"{a}→{b}": [] for a, b in pairwise(HOPS)}
    for chunk in recording.chunks:
        for event in chunk.events:
            if isinstance(event, Token) and event.stamps is not None:
                stamps = event.stamps
                times = (stamps.sampled, stamps.queued, stamps.flushed, stamps.written, chunk.received_ns)
                for name, gap in zip(lags, gaps_ms(times), strict=True):
                    lags[name].append(gap)
    return lags


def meets(result: Figures, *, ttft_ms: float, tpot_ms: float) -> bool:
    """Whether a request met both objectives: one without a TTFT met none, one without a TPOT (a single
    token) is judged by its TTFT alone.
    """
    in_time = result.ttft_ms is not None and result.ttft_ms <= ttft_ms
    return in_time and (result.tpot_ms is None or result.tpot_ms <= tpot_ms)


def goodput(results: Iterable[Figures], duration_s: float, *, ttft_ms: float, tpot_ms: float) -> float:
    """Requests per second that met both objectives (`meets`)."""
    return sum(meets(result, ttft_ms=ttft_ms, tpot_ms=tpot_ms) for result in results) / duration_s


def qoe(recording: Recording, *, tokens_per_s: float, ttft_s: float = 1.0) -> float | None:
    """Quality of experience between 0 and 1, as `reading.qoe` defines it; None without tokens."""
    return reading.qoe(readable_s(recording), tokens_per_s=tokens_per_s, ttft_s=ttft_s)
