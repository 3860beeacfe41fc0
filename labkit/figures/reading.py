"""Figures of a reader with a speed of his own, from the times at which the answer's tokens arrived.

`labkit.figures.metrics` has the figures of the delivery. Times are seconds after the request, one for each
token, in order. A reader at r tokens a second begins with the first token and takes 1/r over each. He waits
where the next token has not arrived.

    digested    when he has finished each token
    stalls      his wait before each token that arrived too late; their number is the stall count, their sum
                the stall time (a video player calls it rebuffering)
    buffers     how many tokens were unread when each one arrived
    effective   tokens weighted by their use to him: 1 while the buffer is below 10 % of the answer's length,
                falling linearly to 0 at 20 %, 0 beyond. Effective throughput is their sum per second
                (TokenFlow, arXiv 2510.02758). A policy that starves its readers keeps their buffers small
                and looks good in it, so read it beside fluidity.
    fluidity    the share of tokens on time. The first is due D_p after the request, each other D_d after the
                deadline before it, so an early token leaves slack for the next. A late token moves the
                deadlines after it (the fluidity index of Etalon, arXiv 2407.07000; Etalon's tool counts a
                long stall several times, once for each D_d that it lasts).
    QoE         the area under the curve of digested tokens over the area under an ideal server's (Andes,
                arXiv 2404.16283; TokenFlow). A server that is faster than the reader earns nothing by it.
"""

from collections.abc import Sequence

FULL_WEIGHT, NO_WEIGHT = 0.1, 0.2
SAME_S = 1e-6
"""Times closer than this differ only by the rounding of floats, which is not a wait."""


def digested(times_s: Sequence[float], tokens_per_s: float) -> list[float]:
    """When the reader has finished each token.

    Raises:
        ValueError: the speed is not above 0.
    """
    if not tokens_per_s > 0:
        raise ValueError(f"a reader reads more than 0 tokens a second, not {tokens_per_s}")
    finished: list[float] = []
    for time in times_s:
        start = max(time, finished[-1]) if finished else time
        finished.append(start + 1 / tokens_per_s)
    return finished


def stalls(times_s: Sequence[float], tokens_per_s: float) -> list[float]:
    """The reader's waits in seconds. The wait for the first token is the TTFT and not among them."""
    finished = digested(times_s, tokens_per_s)
    waits = [time - done for time, done in zip(times_s[1:], finished, strict=False)]
    return [wait for wait in waits if wait > SAME_S]


def buffers(times_s: Sequence[float], tokens_per_s: float) -> list[float]:
    """How many tokens were unread when each one arrived, without itself; a half-read token counts half."""
    finished = digested(times_s, tokens_per_s)
    behind = [max(0.0, done - time) for time, done in zip(times_s[1:], finished, strict=False)]
    return [0.0, *(seconds * tokens_per_s for seconds in behind)][: len(times_s)]


def effective_tokens(times_s: Sequence[float], tokens_per_s: float, length: int | None = None) -> float:
    """The sum of the tokens' weights. `length` is the whole answer's, if only a part of it has arrived."""
    whole = length or len(times_s)
    shares = [unread / whole for unread in buffers(times_s, tokens_per_s)]
    return sum(min(1.0, max(0.0, (NO_WEIGHT - share) / (NO_WEIGHT - FULL_WEIGHT))) for share in shares)


def fluidity(times_s: Sequence[float], *, ttft_s: float, tbt_s: float) -> float | None:
    """The share of tokens on time, for D_p = `ttft_s` and D_d = `tbt_s`; None without tokens."""
    if not times_s:
        return None
    on_time, due = 0, ttft_s
    for time in times_s:
        late = time > due + SAME_S
        on_time += not late
        due = (time if late else due) + tbt_s
    return on_time / len(times_s)


def qoe(times_s: Sequence[float], *, tokens_per_s: float, ttft_s: float = 1.0) -> float | None:
    """Quality of experience, from 0 to 1; None without tokens.

    The ideal server brings the first token after `ttft_s`, and the rest at least as fast as the reader reads.
    Both areas end where the later of the two readers has finished.
    """
    if not times_s:
        return None
    actual = digested([max(time, ttft_s) for time in times_s], tokens_per_s)
    ideal = digested([ttft_s] * len(times_s), tokens_per_s)
    end = max(actual[-1], ideal[-1])
    area = sum(end - time + 0.5 / tokens_per_s for time in actual)
    return area / sum(end - time + 0.5 / tokens_per_s for time in ideal)
