"""Figures of a reader who takes in an answer at a speed of his own, from the times at which it came.

`labkit.figures.metrics` has the figures of the delivery. Times are seconds after the request came, one for
each token, in order. A reader at r tokens a second begins with the first token, takes 1/r over each, and
waits where the next is not there.

    digested    when he has finished each token
    stalls      how long he had to wait before each token that came too late: their number is the stall
                count, their sum the stall time (what a video player calls rebuffering)
    buffers     tokens that lay unread before him when each one came
    effective   tokens weighted by their use to him: 1 while the buffer is below 10 % of the answer's length,
                falling linearly to 0 at 20 %, 0 beyond (effective throughput is their sum a second;
                TokenFlow, arXiv 2510.02758). A policy can look good in it by starving its readers, whose
                buffers are then small: read it beside fluidity.
    fluidity    share of tokens on time. The first is due D_p after the request, each other D_d after the
                deadline before it, so early tokens bank slack; a late token moves the deadlines after it
                (fluidity index; Etalon, arXiv 2407.07000, whose tool counts a long stall several times,
                once for each D_d that it lasts)
    QoE         area under the curve of what he has digested over that of an ideal server's (Andes,
                arXiv 2404.16283; TokenFlow). Surplus speed earns nothing.
"""

from collections.abc import Sequence

FULL_WEIGHT, NO_WEIGHT = 0.1, 0.2
SAME_S = 1e-6  # times that float arithmetic alone tells apart: nobody waited between them


def digested(times_s: Sequence[float], tokens_per_s: float) -> list[float]:
    """When the reader has finished each token.

    Raises:
        ValueError: the speed is not above 0.
    """
    if not tokens_per_s > 0:
        raise ValueError(f"a reader takes in more than 0 tokens a second, not {tokens_per_s}")
    finished: list[float] = []
    for time in times_s:
        start = max(time, finished[-1]) if finished else time
        finished.append(start + 1 / tokens_per_s)
    return finished


def stalls(times_s: Sequence[float], tokens_per_s: float) -> list[float]:
    """The reader's waits in seconds; the one for the first token is the TTFT and none of them."""
    finished = digested(times_s, tokens_per_s)
    waits = [time - done for time, done in zip(times_s[1:], finished, strict=False)]
    return [wait for wait in waits if wait > SAME_S]


def buffers(times_s: Sequence[float], tokens_per_s: float) -> list[float]:
    """Tokens unread when each token came, itself not counted; one half read counts for a half."""
    finished = digested(times_s, tokens_per_s)
    behind = [max(0.0, done - time) for time, done in zip(times_s[1:], finished, strict=False)]
    return [0.0, *(seconds * tokens_per_s for seconds in behind)][: len(times_s)]


def effective_tokens(times_s: Sequence[float], tokens_per_s: float, length: int | None = None) -> float:
    """Tokens by their use to the reader; `length` is that of the whole answer if not all of it has come."""
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
    """Quality of experience between 0 and 1; None without tokens.

    The ideal server's first token comes after `ttft_s` and the rest no slower than the reader reads. Both
    areas run to where the later of the two has finished.
    """
    if not times_s:
        return None
    actual = digested([max(time, ttft_s) for time in times_s], tokens_per_s)
    ideal = digested([ttft_s] * len(times_s), tokens_per_s)
    end = max(actual[-1], ideal[-1])
    area = sum(end - time + 0.5 / tokens_per_s for time in actual)
    return area / sum(end - time + 0.5 / tokens_per_s for time in ideal)
