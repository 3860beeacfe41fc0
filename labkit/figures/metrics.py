"""The figures of a delivery. This module alone derives them, for recordings, traces and simulations.

A request is sent (in a trace: arrives) at s. Its n tokens become readable at t1..tn on the same clock:

    TTFT     t1 - s              time to first token
    ITL      t(i+1) - t(i)       inter-token latency; 0 between tokens of one chunk
    ICL      the same between chunks; a chunk is a read with at least one token
    TPOT     (tn - t1) / (n - 1) time per output token, as vLLM defines it; undefined below two tokens
    E2E      tn - s
    jitter   p99 - p50 of ITL
    goodput  requests per second that meet a stated TTFT and TPOT objective

`labkit.figures.reading` has the figures of a reader with a speed (stalls, fluidity, effective tokens, QoE);
`readable_s` gives it the times of a recording.

A name's ending is its unit: `_s` seconds, `_ms` milliseconds, `_ns` nanoseconds.
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
    """The p-th percentile by nearest rank: the smallest value that at least p % of the values do not exceed.

    For example the 50th percentile of 15, 20, 35, 40, 50 is 35, and the 40th is 20. Without values it is
    None, because an undefined figure is not a zero.

    Raises:
        ValueError: p is not within 0 < p <= 100.
    """
    if not 0 < p <= 100:
        raise ValueError(f"a percentile lies within 0 < p <= 100, not {p}")
    if not values:
        return None
    # 28 * 25 / 100 is a hair above 7 in floating point. Without the rounding it would give rank 8.
    return sorted(values)[ceil(round(p * len(values) / 100, 9)) - 1]


def arrivals(recording: Recording) -> list[int]:
    """When each token became readable, in order, in ns of the client's clock.

    A token may have no text: it is half a character, or may begin a stop string. It becomes readable with the
    next token that has text. Tokens after the last text never become readable, and are left out.
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
    """When each read with at least one token ended, in ns."""
    return [c.received_ns for c in recording.chunks if any(isinstance(event, Token) for event in c.events)]


def gaps_ms(times_ns: Sequence[int]) -> list[float]:
    """The times between neighbours, in ms: one fewer than there are times."""
    return [(later - earlier) / 1e6 for earlier, later in pairwise(times_ns)]


@dataclass(frozen=True)
class Figures:
    """The figures of one request; None where one is undefined."""

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
    """Derive all figures of one request whose tokens arrived one by one, to the nanosecond."""
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

    The keys are `"sampled→queued"`, `"queued→flushed"`, `"flushed→written"` and `"written→received"`. The
    lags are true only for a server on this host, which has the client's monotonic clock. Tokens without
    stamps are left out.
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
    """Whether a request met both objectives.

    A request without a TTFT (no token) met none. One without a TPOT (a single token) needs only the TTFT.
    """
    in_time = result.ttft_ms is not None and result.ttft_ms <= ttft_ms
    return in_time and (result.tpot_ms is None or result.tpot_ms <= tpot_ms)


def goodput(results: Iterable[Figures], duration_s: float, *, ttft_ms: float, tpot_ms: float) -> float:
    """Requests per second that met both objectives (`meets`)."""
    return sum(meets(result, ttft_ms=ttft_ms, tpot_ms=tpot_ms) for result in results) / duration_s


def qoe(recording: Recording, *, tokens_per_s: float, ttft_s: float = 1.0) -> float | None:
    """The quality of experience of a recording, from 0 to 1; see `reading.qoe`. None without tokens."""
    return reading.qoe(readable_s(recording), tokens_per_s=tokens_per_s, ttft_s=ttft_s)
