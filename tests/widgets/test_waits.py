"""What a latency plot shows, without a widget: first waits, waits that go on, turned knobs, its axis."""

import pytest

from labkit.widgets.columns import Column
from labkit.widgets.waits import MOST_TURNS, Event, Waits

S, MS = 1_000_000_000, 1_000_000


def taken(*events: Event, count: int = 2, window_s: float = 10.0) -> Waits:
    waits = Waits(count, window_s)
    for event in events:
        waits.take(event)
    return waits


def test_a_wait_that_goes_on_grows_and_becomes_the_first_one() -> None:
    waits = taken(("start", 0, 5 * S, 0.0))
    assert waits.lines(5 * S + 100 * MS)[0] == [], "a short one would flicker"
    assert waits.lines(7 * S)[0] == [(0.0, 2000.0), (2.0, 2000.0)]
    assert waits.lines(9 * S)[0] == [(0.0, 4000.0), (4.0, 4000.0)]
    waits.take(("push", 0, 10 * S, 5000.0))
    waits.take(("finish", 0, 10 * S, 0.0))
    assert waits.lines(20 * S)[0] == [(0.0, 5000.0), (5.0, 5000.0)]
    assert waits.top_ms == 5000


def test_a_stall_in_the_middle_shows_while_it_lasts() -> None:
    waits = taken(("start", 0, 0, 0.0), ("push", 0, 10 * MS, 10.0))
    assert waits.lines(1010 * MS)[0] == [(0.0, 10.0), (0.01, 10.0), (1.01, 1000.0)]
    assert waits.lines(1010 * MS)[1] == []


def test_a_slider_that_is_drawn_over_several_positions_is_turned_once() -> None:
    waits = taken(("start", 0, 0, 0.0))
    for text, at_ms in (("every 2", 1000), ("every 4", 1200), ("every 8", 1500), ("every token", 4000)):
        waits.take(("turn", text, at_ms * MS))
    assert waits.turns == [(1.0, "every 8"), (4.0, "every token")]
    for step in range(100):
        waits.take(("turn", f"{step}", (5 + step) * S))
    assert len(waits.turns) == MOST_TURNS
    waits.take(None)
    assert waits.turns == []


@pytest.mark.parametrize(
    ("newest_s", "span_s"), [(3, (0, 10)), (10.1, (0, 15)), (24, (0, 25)), (47, (7, 47))]
)
def test_the_axis_fits_the_run_and_then_moves_on(newest_s: float, span_s: tuple[float, float]) -> None:
    waits = taken(("start", 0, 0, 0.0), ("push", 0, int(newest_s * S), 5.0))
    assert waits.span_s() == span_s


def test_a_column_says_how_long_its_first_token_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("labkit.widgets.columns.time.monotonic_ns", lambda: 3 * S)
    column = Column("rest")
    assert column.waited_ms() is None and not column.waiting
    column.start(1 * S)
    assert column.waited_ms() == 2000.0 and column.waiting
    column.push("x", 2 * S)
    assert column.waited_ms() == 1000.0 and not column.waiting


def test_a_wait_that_was_stopped_stays_in_view(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 3
    monkeypatch.setattr("labkit.widgets.columns.time.monotonic_ns", lambda: now_s * S)
    column = Column("rest")
    column.start(1 * S)
    column.finish("stopped", failed=False)
    now_s = 9
    assert column.waited_ms() == 2000.0 and not column.waiting and column.ttft_ms is None
    waits = taken(("start", 0, 1 * S, 0.0), ("finish", 0, 3 * S, 0.0))
    assert waits.lines(9 * S)[0] == [(0.0, 2000.0), (2.0, 2000.0)]
