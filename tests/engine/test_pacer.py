"""The pace of a stream, on a clock by hand."""

from labkit.engine.pacer import Pacer


def tokens(pacer: Pacer, interval_ms: float, asked_s: list[float]) -> list[float]:
    """When tokens come if the engine is ready for them at these times, or once the last token has come."""
    times: list[float] = []
    for now_s in asked_s:
        pacer.ask(max([now_s, *times]))
        times.append(pacer.due_s(interval_ms))
        pacer.emitted(times[-1])
    return times


def test_a_token_is_due_an_interval_after_the_last() -> None:
    assert tokens(Pacer(0.0), 500, [0, 0, 0]) == [0.5, 1.0, 1.5]


def test_without_a_token_before_it_the_first_is_due_at_once() -> None:
    assert Pacer().due_s(500) < 0
    assert tokens(Pacer(), 500, [3, 3, 3]) == [3, 3.5, 4.0]


def test_a_token_that_comes_late_does_not_delay_the_next() -> None:
    pacer = Pacer(0.0)
    pacer.emitted(pacer.due_s(500))
    pacer.ask(0.7)  # it was due at 0.5 s and came 0.2 s later
    assert pacer.due_s(500) == 1.0


def test_a_stream_that_lags_goes_on_without_a_burst() -> None:
    assert tokens(Pacer(0.0), 500, [0, 10, 10, 10]) == [0.5, 10, 10.5, 11.0]


def test_without_an_interval_a_token_is_due_when_it_is_asked_for() -> None:
    assert tokens(Pacer(0.0), 0, [1, 2, 3]) == [1, 2, 3]


def test_a_slow_pace_can_be_undone_while_a_token_waits() -> None:
    pacer = Pacer(0.0)
    pacer.ask(0.0)
    assert pacer.due_s(3_600_000) == 3600
    assert pacer.due_s(500) == 0.5
