"""Every figure of a recording, against values worked out by hand."""

import random
from math import ceil, nan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labkit.client import Chunk, Recording
from labkit.events import Event, Failed, Finished, Stamps, Started, Token
from labkit.figures import metrics, reading

MS = 1_000_000


def recording(*chunks: tuple[float, list[str]], sent_ms: float = 1_000) -> Recording:
    """A recording of chunks: each is its ms after the request, and the texts of its tokens."""
    result = Recording("hand", int(sent_ms * MS))
    ids = iter(range(10_000))
    result.chunks.append(Chunk(int((sent_ms + 1) * MS), [Started(next(ids), "r", "m", 1)]))
    for at_ms, texts in chunks:
        events: list[Event] = [Token(next(ids), text) for text in texts]
        result.chunks.append(Chunk(int((sent_ms + at_ms) * MS), events))
    last = result.chunks[-1]
    last.events.append(Finished(next(ids), "stop", sum(len(texts) for _, texts in chunks)))
    return result


# Seven tokens: one, then three in one read, one, and two.
LUMPY = recording((100, ["a"]), (160, ["b", "c", "d"]), (200, ["e"]), (300, ["f", "g"]))


def test_figures_of_a_lumpy_stream() -> None:
    figures = metrics.figures(LUMPY)
    assert (figures.tokens, figures.chunks) == (7, 4)
    assert figures.ttft_ms == 100
    assert figures.e2e_ms == 300
    assert figures.itl_ms == [60, 0, 0, 40, 100, 0]
    assert figures.icl_ms == [60, 40, 100]
    assert figures.tpot_ms == pytest.approx(200 / 6)
    assert figures.itl_p50_ms == 0  # sorted: 0 0 0 40 60 100, rank 3
    assert figures.itl_p99_ms == 100
    assert figures.jitter_ms == 100


def test_the_start_and_the_end_are_not_tokens() -> None:
    assert metrics.arrivals(LUMPY)[0] == 1_100 * MS
    assert metrics.chunk_arrivals(LUMPY) == [1_100 * MS, 1_160 * MS, 1_200 * MS, 1_300 * MS]


def test_one_token_has_no_time_per_token() -> None:
    figures = metrics.figures(recording((250, ["a"])))
    assert (figures.ttft_ms, figures.e2e_ms, figures.tpot_ms) == (250, 250, None)
    assert (figures.itl_ms, figures.icl_ms) == ([], [])
    assert figures.itl_p50_ms is None and figures.itl_p99_ms is None and figures.jitter_ms is None


def test_two_tokens_in_one_read() -> None:
    figures = metrics.figures(recording((250, ["a", "b"])))
    assert (figures.ttft_ms, figures.tpot_ms, figures.itl_ms, figures.icl_ms) == (250, 0, [0], [])


def test_nothing_came() -> None:
    empty = Recording("hand", 0, [Chunk(5, [Failed(0, "engine_failed", "x")])])
    figures = metrics.figures(empty)
    assert (figures.tokens, figures.chunks, figures.itl_ms) == (0, 0, [])
    assert (figures.ttft_ms, figures.tpot_ms, figures.e2e_ms) == (None, None, None)
    assert metrics.figures(Recording("hand", 0)).ttft_ms is None
    assert metrics.qoe(empty, tokens_per_s=10) is None


def test_token_without_text_becomes_readable_with_the_next_that_has_some() -> None:
    stream = recording((100, [""]), (150, ["", "é"]), (200, ["x"]), (900, [""]))
    assert [t / MS - 1_000 for t in metrics.arrivals(stream)] == [150, 150, 150, 200]
    figures = metrics.figures(stream)
    assert (figures.tokens, figures.ttft_ms, figures.e2e_ms) == (4, 150, 200)
    assert figures.itl_ms == [0, 0, 50]
    assert figures.tpot_ms == pytest.approx(50 / 3)


# Nearest rank by hand, for 15 20 35 40 50.
@pytest.mark.parametrize(
    ("p", "value"),
    [(5, 15), (20, 15), (20.1, 20), (30, 20), (40, 20), (50, 35), (75, 40), (99, 50), (100, 50)],
)
def test_percentile_by_nearest_rank(p: float, value: float) -> None:
    assert metrics.percentile([35, 20, 15, 50, 40], p) == value


@pytest.mark.parametrize("p", [0, -1, 100.1, nan])
def test_percentile_out_of_range(p: float) -> None:
    with pytest.raises(ValueError, match="percentile"):
        metrics.percentile([1], p)


def test_percentile_of_nothing_is_undefined() -> None:
    assert metrics.percentile([], 50) is None


PERCENTILES = st.sampled_from([1, 10, 25, 50, 75, 90, 99, 100])


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=300), PERCENTILES)
def test_percentile_agrees_with_numpy(values: list[float], p: int) -> None:
    assert metrics.percentile(values, p) == np.percentile(values, p, method="inverted_cdf")


def test_percentile_has_no_rounding_of_its_own() -> None:
    """The rank is exact: p % of n values may be a whole number that float arithmetic misses."""
    for n in range(1, 400):
        values = list(range(1, n + 1))
        for p in range(1, 101):
            assert metrics.percentile(values, p) == max(1, -(-p * n // 100)), (n, p)


def test_lags_of_each_hop() -> None:
    stream = Recording("hand", 0)
    one = Token(1, "a", stamps=Stamps(10 * MS, 11 * MS, 15 * MS, 16 * MS))
    two = Token(2, "b", stamps=Stamps(12 * MS, 12 * MS, 15 * MS, 17 * MS))
    stream.chunks = [Chunk(20 * MS, [Started(0, "r", "m", 1), one, two, Token(3, "no stamps")])]
    assert metrics.lags_ms(stream) == {
        "sampled→queued": [1, 0],
        "queued→flushed": [4, 3],
        "flushed→written": [1, 2],
        "written→received": [4, 3],
    }


def test_goodput_counts_what_met_both_objectives() -> None:
    results = [
        metrics.figures(recording((100, ["a"]), (120, ["b"]))),  # TTFT 100, TPOT 20
        metrics.figures(recording((100, ["a"]), (151, ["b"]))),  # TPOT 51: too slow
        metrics.figures(recording((201, ["a"]), (202, ["b"]))),  # TTFT 201: too late
        metrics.figures(recording((200, ["a"]), (250, ["b"]))),  # exactly at both
        metrics.figures(recording((150, ["a"]))),  # one token: by its TTFT
        metrics.figures(Recording("hand", 0)),  # nothing came
    ]
    assert metrics.goodput(results, 2.0, ttft_ms=200, tpot_ms=50) == 1.5
    assert metrics.goodput([], 2.0, ttft_ms=200, tpot_ms=50) == 0


def test_a_reader_digests_at_his_own_speed() -> None:
    assert metrics.digested([0, 0, 0], 2) == [0.5, 1.0, 1.5]
    assert metrics.digested([0, 3, 3], 2) == [0.5, 3.5, 4.0]
    assert metrics.digested([], 2) == []


def paced(count: int, first_ms: float, gap_ms: float) -> Recording:
    return recording(*((first_ms + i * gap_ms, ["x"]) for i in range(count)))


@pytest.mark.parametrize(
    "stream",
    [
        paced(20, 1_000, 100),  # exactly the ideal: the first after 1 s, then as fast as he reads
        paced(20, 50, 100),  # a first token before its time earns nothing
        paced(20, 50, 1),  # neither does surplus speed
        recording((1_000, ["x"] * 20)),
    ],
)
def test_ideal_stream_has_quality_one(stream: Recording) -> None:
    assert metrics.qoe(stream, tokens_per_s=10) == pytest.approx(1)


def test_quality_of_a_stalled_stream_by_hand() -> None:
    """The reader takes one token a second; ideally, from 1 s on, he finishes at 2, 3 and 4 s. The third token
    arrives at 5 s, 2 s late, and he finishes it at 6 s. Both areas end at 6 s, and each token adds a ramp
    over the second before its end: ideal 4.5 + 3.5 + 2.5 = 10.5, actual 4.5 + 3.5 + 0.5 = 8.5."""
    stream = recording((1_000, ["a"]), (2_000, ["b"]), (5_000, ["c"]))
    assert metrics.qoe(stream, tokens_per_s=1) == pytest.approx(8.5 / 10.5)


def test_quality_of_a_late_first_token_by_hand() -> None:
    """Two tokens arrive at 3 s instead of 1 s. The reader finishes them at 4 and 5 s, ideally at 2 and 3 s:
    (1.5 + 0.5) / (3.5 + 2.5)."""
    assert metrics.qoe(recording((3_000, ["a", "b"])), tokens_per_s=1) == pytest.approx(2 / 6)


def test_quality_agrees_with_areas_summed_in_small_steps() -> None:
    rng = random.Random(3)
    times = sorted(rng.uniform(0.2, 4) for _ in range(12))
    stream = recording(*((time * 1e3, ["x"]) for time in times))
    speed, ttft, step = 6.0, 1.0, 1e-4
    done, ideal = 0.0, [ttft + (i + 1) / speed for i in range(12)]
    digested = []
    for time in times:
        done = max(done, time, ttft) + 1 / speed
        digested.append(done)
    end = max(digested[-1], ideal[-1])

    def area(ends: list[float]) -> float:
        grid = np.arange(0, end, step) + step / 2
        return float(sum(np.clip((grid - (e - 1 / speed)) * speed, 0, 1).sum() * step for e in ends))

    expected = area(digested) / area(ideal)
    assert 0.3 < expected < 0.99
    assert metrics.qoe(stream, tokens_per_s=speed, ttft_s=ttft) == pytest.approx(expected, abs=1e-3)


def test_longer_stall_is_worse() -> None:
    late = [
        metrics.qoe(recording((1_000, ["a"] * 5), (1_000 + ms, ["b"] * 5)), tokens_per_s=5)
        for ms in (0, 900, 2_000, 5_000)
    ]
    assert late[0] == pytest.approx(1)
    assert late[1] == pytest.approx(1), "he is still reading what came before"
    assert late[1] is not None and late[2] is not None and late[3] is not None
    assert late[1] > late[2] > late[3] > 0
    assert ceil(late[3]) == 1


def test_quality_of_times_is_that_of_the_recording() -> None:
    stream = recording((1_000, ["a"]), (2_000, ["b"]), (5_000, ["c"]))
    assert metrics.readable_s(stream) == [1, 2, 5]
    assert reading.qoe([1, 2, 5], tokens_per_s=1) == pytest.approx(8.5 / 10.5)
    assert reading.qoe([], tokens_per_s=1) is None


def test_figures_of_times_are_those_of_a_recording() -> None:
    figures = metrics.figures_of_times(1.0, [1.1, 1.16, 1.3])
    assert figures == metrics.figures(recording((100, ["a"]), (160, ["b"]), (300, ["c"])))
    assert figures.itl_ms == [60, 140], "to the nanosecond"
    assert metrics.figures_of_times(0.0, [2.01]).ttft_ms == 2_010, "2.01 * 1e9 is a hair below"
    assert metrics.figures_of_times(1.0, []).ttft_ms is None


def test_a_reader_waits_where_the_next_token_is_not_there() -> None:
    """Two tokens a second from 1 s on: he finishes three at 1.5, 2 and 2.5 s, then waits 1.5 s and 0.25 s."""
    assert reading.stalls([1, 1, 1.2, 4, 4.75], 2) == pytest.approx([1.5, 0.25])
    assert reading.stalls([9], 2) == [], "the wait for the first token is the TTFT"
    assert reading.stalls([], 2) == []


@pytest.mark.parametrize("speed", [3, 7, 8, 15, 20, 49])
def test_a_reader_never_waits_for_tokens_at_his_speed(speed: float) -> None:
    times = [1e5 + i / speed for i in range(1_000)]
    assert reading.stalls(times, speed) == []
    assert reading.fluidity(times, ttft_s=1e5, tbt_s=1 / speed) == 1
    assert reading.effective_tokens(times, speed) == pytest.approx(1_000, rel=1e-3)


def test_a_buffer_holds_the_unread_tokens() -> None:
    """Two tokens a second: one and a half are unread at 0.25 s, none at 9 s after a wait."""
    assert reading.buffers([0, 0, 0.25, 9, 9], 2) == pytest.approx([0, 1, 1.5, 0, 1])
    assert reading.buffers([3], 2) == [0]
    assert reading.buffers([], 2) == []


def test_effective_tokens_weigh_a_token_by_the_buffer_that_it_meets() -> None:
    """Twenty tokens at once meet buffers of 0 to 19. Up to 2 (10 %) they weigh 1, at 3 (15 %) a half, from 4
    (20 %) on nothing."""
    assert reading.effective_tokens([0.0] * 20, 10) == pytest.approx(3.5)
    assert reading.effective_tokens([0.0] * 20, 10, 40) == pytest.approx(5 + 0.75 + 0.5 + 0.25)
    assert reading.effective_tokens([float(i) for i in range(20)], 10) == 20, "starved, and all of use"
    assert reading.effective_tokens([], 10) == 0


@pytest.mark.parametrize(
    ("times", "share"),
    [
        ([1, 2, 3, 4], 1),  # each at its deadline
        ([0, 0, 0, 4], 1),  # early ones bank slack
        ([0, 0, 0, 4.5], 3 / 4),
        ([3, 4, 5, 6], 3 / 4),  # a late one moves the deadlines
        ([1, 5, 5.5, 7], 3 / 4),  # due 1, 2 (late, from 5 on), 6, 7
        ([1, 5, 6.5, 8], 1 / 4),  # due 1, 2, 6 and, from 6.5 on, 7.5
    ],
)
def test_fluidity_is_the_share_of_tokens_on_time(times: list[float], share: float) -> None:
    assert reading.fluidity(times, ttft_s=1, tbt_s=1) == share


def test_fluidity_of_nothing_is_undefined() -> None:
    assert reading.fluidity([], ttft_s=1, tbt_s=1) is None


@pytest.mark.parametrize("speed", [0, -1, nan])
def test_a_reader_without_speed_is_an_error(speed: float) -> None:
    with pytest.raises(ValueError, match="reads more than 0 tokens a second"):
        reading.digested([1], speed)
