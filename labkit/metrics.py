"""Every figure of the lab, derived here and only here from the times that a client and a server stamped.

For a request sent at s, whose n tokens became readable at t1..tn on the client's clock:

    TTFT     t1 - s              time to first token
    ITL      t(i+1) - t(i)       inter-token latency; many are 0 where a chunk brought several tokens
    ICL      the same between chunks, the reads that brought at least one token
    TPOT     (tn - t1) / (n - 1) time per output token, as vLLM defines it; undefined below two tokens
    E2E      tn - s
    jitter   p99 - p50 of ITL
    goodput  requests per second that meet a stated TTFT and TPOT objective
    QoE      what a reader at a given speed could digest over what an ideal server would have let him,
             as area under the curves (Andes, arXiv 2404.16283; TokenFlow, arXiv 2510.02758)

Times are seconds in arguments called `_s`, milliseconds where called `_ms`, nanoseconds where `_ns`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil

from labkit.client import Recording
from labkit.events import Token

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


def chunk_arrivals(recording: Recording) -> list[int]:
    """When each read that brought at least one token ended, in ns."""
    return [c.received_ns for c in recording.chunks if any(isinstance(event, Token) for event in c.events)]


def gaps_ms(times_ns: Sequence[int]) -> list[float]:
    return [(later - earlier) / 1e6 for earlier, later in pairwise(times_ns)]


@dataclass(frozen=True)
class Figures:
    """What one recording amounts to; None where it is undefined."""

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
    times = arrivals(recording)
    chunks = chunk_arrivals(recording)
    n = len(times)
    return Figures(
        tokens=n,
        chunks=len(chunks),
        ttft_ms=(times[0] - recording.sent_ns) / 1e6 if n else None,
        tpot_ms=(times[-1] - times[0]) / 1e6 / (n - 1) if n > 1 else None,
        e2e_ms=(times[-1] - recording.sent_ns) / 1e6 if n else None,
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


def goodput(results: Iterable[Figures], duration_s: float, *, ttft_ms: float, tpot_ms: float) -> float:
    """Requests per second that met both objectives; a request without a TTFT met none, one without a TPOT
    (a single token) is judged by its TTFT alone.
    """
    met = sum(
        f.ttft_ms is not None and f.ttft_ms <= ttft_ms and (f.tpot_ms is None or f.tpot_ms <= tpot_ms)
        for f in results
    )
    return met / duration_s


def digested(times_s: Sequence[float], tokens_per_s: float) -> list[float]:
    """When a reader at `tokens_per_s` has digested each token, given when each became readable."""
    finished: list[float] = []
    for time in times_s:
        start = max(time, finished[-1]) if finished else time
        finished.append(start + 1 / tokens_per_s)
    return finished


def qoe(recording: Recording, *, tokens_per_s: float, ttft_s: float = 1.0) -> float | None:
    """Quality of experience between 0 and 1: area under the digested tokens over the ideal's.

    The ideal server's first token comes after `ttft_s` and the rest no slower than the reader reads. Both
    areas run to where the later of the two has finished. Surplus speed earns nothing. None without tokens.
    """
    times = [(t - recording.sent_ns) / 1e9 for t in arrivals(recording)]
    if not times:
        return None
    actual = digested([max(t, ttft_s) for t in times], tokens_per_s)
    ideal = digested([ttft_s] * len(times), tokens_per_s)
    end = max(actual[-1], ideal[-1])
    area = sum(end - t + 0.5 / tokens_per_s for t in actual)
    return area / sum(end - t + 0.5 / tokens_per_s for t in ideal)
