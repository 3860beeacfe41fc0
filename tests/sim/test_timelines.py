"""From a scheduler's records to timelines and figures, against values worked out by hand."""

import pytest

from labkit.engine.trace import Arrived, Iteration, Moved, Record
from labkit.sim.timelines import summarize, timelines


def iteration(start_s: float, end_s: float, emitted: list[int], **more: int) -> Iteration:
    counts = {"prefill": 0, "decodes": 0, "attended": 0, "swapped": 0, "kv_tokens": 0} | more
    return Iteration(start_s, end_s, running=0, waiting=0, emitted=emitted, **counts)


# Two readers at one token a second. The first gets tokens at 11, 12 and 16 s, the second one at 13 s, is
# swapped out at 14 s, and gets another at 19 s.
RUN: list[Record] = [
    Arrived(10, 1, "one", 5, 3, 1.0),
    Moved(10, 1, "prefill"),
    iteration(10, 11, [1], prefill=5, kv_tokens=5),
    Moved(11, 1, "decode"),
    iteration(11, 12, [1], decodes=1, kv_tokens=6),
    Arrived(12, 2, "two", 4, 9, 1.0),
    Moved(12, 2, "waiting"),
    Moved(12, 2, "prefill"),
    iteration(12, 13, [2], prefill=4, kv_tokens=10),
    Moved(14, 2, "swapped"),
    iteration(14, 16, [1], decodes=3, kv_tokens=7),
    Moved(16, 1, "finished"),
    Moved(16, 2, "decode"),
    iteration(16, 19, [2], decodes=2, kv_tokens=5),
    Moved(20, 2, "dropped"),
]


def test_each_request_has_its_own_timeline() -> None:
    one, two = timelines(RUN)
    assert (one.name, one.arrival_s, one.reader_tps, one.prompt_tokens, one.max_tokens) == (
        "one",
        10,
        1,
        5,
        3,
    )
    assert (one.token_times_s, two.token_times_s) == ([11, 12, 16], [13, 19])
    assert one.states == [(10, "prefill"), (11, "decode"), (16, "finished")]
    assert two.waits_s == [1, 7]
    assert (one.finished, two.finished) == (True, False)
    assert (one.preemptions, two.preemptions) == (0, 1)


def test_timelines_are_in_order_of_arrival() -> None:
    late, early = Arrived(5, 7, "late", 1, 1, 0), Arrived(3, 8, "early", 1, 1, 0)
    assert [timeline.name for timeline in timelines([late, early])] == ["early", "late"]


def test_requests_from_before_the_first_record_are_left_out() -> None:
    first, *others = timelines([Moved(9, 0, "decode"), iteration(9, 11, [0, 1]), *RUN])
    assert len(others) == 1
    assert first.token_times_s == [11, 12, 16]


def test_summary_of_a_run_by_hand() -> None:
    """From 10 to 20 s. At a token a second the first reader waits 3 s for the third token, the second 5 s."""
    summary = summarize(RUN)
    assert (summary.requests, summary.finished, summary.tokens, summary.total_s) == (2, 1, 5, 10)
    assert summary.tokens_per_s == 0.5
    assert (summary.ttft_p50_s, summary.ttft_p99_s) == (1, 1)
    assert summary.itl_p99_ms == 6_000
    assert summary.stall_s == pytest.approx((3 + 5) / 2)
    assert summary.fluidity == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert summary.effective_tokens_per_s == 0.5, "no token ever met one that was unread"
    # digested at 2, 3, 7 (ideally 2, 3, 4), to 7 s: (5.5 + 4.5 + .5) / (5.5 + 4.5 + 3.5); at 2, 8: (6.5 + .5)
    # / (6.5 + 5.5)
    assert summary.qoe == pytest.approx((10.5 / 13.5 + 7 / 12) / 2)
    assert summary.preemptions == 1
    assert summary.batch == pytest.approx(2)
    assert summary.kv_peak == 10


def test_goodput_counts_what_finished_in_time_and_at_its_reader_s_speed() -> None:
    """The first gets its first token after 1 s, then one every 2.5 s, which is enough for a slower reader."""

    def with_reader(tokens_per_s: float) -> list[Record]:
        return [Arrived(10, 1, "one", 5, 3, tokens_per_s), *RUN[1:]]

    assert summarize(with_reader(0.4)).goodput == pytest.approx(1 / 10)
    assert summarize(with_reader(0.4), ttft_s=0.9).goodput == 0
    assert summarize(with_reader(0.5)).goodput == 0
    assert summarize(with_reader(0)).goodput == pytest.approx(1 / 10), "only the TTFT counts"
    unfinished = [record for record in with_reader(0.4) if record != Moved(16, 1, "finished")]
    assert summarize(unfinished).goodput == 0


def test_a_later_first_token_is_on_time_where_the_objective_allows_it() -> None:
    strict, lenient = summarize(RUN, ttft_s=0.5), summarize(RUN, ttft_s=5)
    assert strict.fluidity is not None and lenient.fluidity is not None
    assert strict.fluidity < 0.5 < lenient.fluidity
    assert strict.qoe is not None and lenient.qoe is not None and strict.qoe < lenient.qoe


def test_a_burst_of_tokens_is_of_less_use_than_an_even_stream() -> None:
    begin: list[Record] = [Arrived(0, 0, "x", 1, 40, 10.0)]
    at_once = summarize([*begin, *(iteration(0, 1, [0]) for _ in range(20)), Moved(4, 0, "finished")])
    even = summarize([*begin, *(iteration(0, 1 + i / 10, [0]) for i in range(20)), Moved(4, 0, "finished")])
    assert at_once.effective_tokens_per_s == pytest.approx(3.5 / 4), "of 20 tokens: 0, 1, 2, half of 3"
    assert even.effective_tokens_per_s == pytest.approx(20 / 4)
    cut = summarize([*begin, *(iteration(0, 1, [0]) for _ in range(20)), Moved(4, 0, "decode")])
    assert cut.effective_tokens_per_s == pytest.approx(6.5 / 4), "not finished: of 40 that may come"


def test_a_request_without_tokens_counts_as_unread() -> None:
    run: list[Record] = [*RUN, Arrived(12, 3, "three", 4, 9, 1.0)]
    assert summarize(run).requests == 3
    assert summarize(run).qoe == pytest.approx((10.5 / 13.5 + 7 / 12) / 3)
    assert summarize(run).fluidity == pytest.approx((2 / 3 + 1 / 2) / 3)
    assert summarize(run).ttft_p99_s == 1


def test_without_readers_their_figures_are_undefined() -> None:
    summary = summarize([Arrived(0, 0, "x", 1, 2, 0.0), iteration(0, 1, [0]), iteration(1, 2, [0])])
    assert (summary.fluidity, summary.qoe, summary.stall_s) == (None, None, None)
    assert summary.effective_tokens_per_s == summary.tokens_per_s == 1


def test_the_summary_of_no_records_has_no_rates() -> None:
    summary = summarize([])
    assert (summary.requests, summary.tokens, summary.total_s, summary.kv_peak) == (0, 0, 0, 0)
    assert (summary.tokens_per_s, summary.ttft_p99_s, summary.goodput, summary.batch) == (None,) * 4
