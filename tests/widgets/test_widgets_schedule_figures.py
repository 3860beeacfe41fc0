"""What a schedule keeps of the records, without a widget: spans, readers' buffers, KV, all of it bounded."""

import random
from itertools import pairwise
from typing import get_args

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from labkit.engine.trace import Arrived, Iteration, Moved, Record, State
from labkit.widgets.buffer import Buffer
from labkit.widgets.lines import StepLine
from labkit.widgets.request_row import KEEP_SPANS
from labkit.widgets.schedule import SLICES, Schedule
from labkit.widgets.states import ENDS, LOOKS


def scheduled(records: list[Record], window_s: float = 20.0, most_rows: int = 64) -> Schedule:
    schedule = Schedule(window_s, most_rows)
    for record in records:
        schedule.take(record)
    return schedule


def arrived(number: int, at_s: float) -> Arrived:
    return Arrived(at_s, number, f"story {number}", 10, 20, 10.0)


def emitted(start_s: float, end_s: float, *numbers: int, kv: int = 50) -> Iteration:
    return Iteration(start_s, end_s, 0, len(numbers), 0, 0, kv, len(numbers), 0, list(numbers))


def test_a_row_has_the_spans_of_the_records() -> None:
    moves: list[tuple[float, State]] = [(7.5, "prefill"), (8, "decode"), (9, "evicted"), (11, "finished")]
    moves.append((12, "finished"))
    schedule = scheduled([arrived(3, 7.0), *(Moved(at_s, 3, state) for at_s, state in moves)])
    row = schedule.rows[3]
    assert row.spans_until(99.0) == [
        ("waiting", 0.0, 0.5),
        ("prefill", 0.5, 1.0),
        ("decode", 1.0, 2.0),
        ("evicted", 2.0, 4.0),
    ]
    assert (row.name, row.ended, schedule.now_s) == ("story 3", True, 5.0)


def test_equal_neighbours_are_one_span_and_an_empty_one_is_none() -> None:
    moves: list[tuple[float, State]] = [(0, "decode"), (1, "decode"), (2, "paused"), (2, "decode")]
    schedule = scheduled([arrived(0, 0.0), *(Moved(at_s, 0, state) for at_s, state in moves)])
    assert schedule.rows[0].spans_until(3.0) == [("decode", 0.0, 3.0)]


def test_a_reader_starts_with_the_first_token_and_stalls_when_nothing_is_left() -> None:
    buffer = Buffer(reader_tps=10.0, window_s=20.0)
    assert buffer.points(1.0) == []
    for at_s in (1.0, 1.0, 2.0):
        buffer.emit(at_s)
    assert [buffer.level(at_s) for at_s in (2.0, 2.05, 2.1, 5.0)] == pytest.approx([1.0, 0.5, 0.0, 0.0])
    corners = [(1.0, 0.0), (1.0, 2.0), (1.2, 0.0), (2.0, 0.0), (2.0, 1.0), (2.1, 0.0), (5.0, 0.0)]
    assert buffer.points(5.0) == [pytest.approx(corner) for corner in corners]


def test_the_level_rounded_up_counts_the_whole_tokens_that_are_unread() -> None:
    rng = random.Random(4)
    buffer = Buffer(reader_tps=8.0, window_s=20.0)
    at_s, read_at = 0.0, list[float]()
    for _ in range(500):
        at_s += rng.choice([0.0, 0.01, 0.05, 0.9])
        buffer.emit(at_s)
        read_at.append(max(at_s, read_at[-1] if read_at else 0.0) + 1 / 8)
        later_s = at_s + 0.003
        assert np.ceil(buffer.level(later_s)) == sum(read_s > later_s for read_s in read_at)
        assert buffer.level(at_s) >= 1.0


def test_without_a_reader_there_is_no_line() -> None:
    buffer = Buffer(reader_tps=0.0, window_s=20.0)
    buffer.emit(1.0)
    assert (buffer.points(2.0), buffer.peak) == ([], 0.0)


def test_a_line_of_steps_is_bounded_and_keeps_peaks_lows_and_its_end() -> None:
    line = StepLine(window_s=10.0, slices=240)
    for i in range(100_000):
        line.push(i * 3e-4, {5_200: 90.0, 5_201: -1.0}.get(i % 10_000, 4.0 + i % 2))
    points = line.points()
    assert 240 < len(points) <= 3 * 240 + 3
    assert points[0][0] == pytest.approx(20.0, abs=0.1)
    assert points[-1] == pytest.approx((29.9997, 5.0))
    values = [value for _, value in points]
    assert values.count(90.0) == values.count(-1.0) == 3
    assert all(one[0] <= other[0] for one, other in pairwise(points))


def test_a_line_of_steps_that_falls_and_rises_at_one_time_keeps_their_order() -> None:
    line = StepLine(window_s=10.0, slices=10)
    for at_s, value in [(0.1, 84.0), (0.2, 0.0), (0.2, 11.0), (0.3, 12.0)]:
        line.push(at_s, value)
    assert line.points() == [(0.1, 84.0), (0.2, 0.0), (0.3, 12.0)]
    line.push(1.0, 5.0)
    line.push(1.0, 0.0)
    assert line.points()[3:] == [(1.0, 5.0), (1.0, 0.0)]


def test_a_long_run_is_bounded_and_says_what_is_folded() -> None:
    schedule = Schedule(window_s=2.0)
    for number in range(3_000):
        at_s = number * 0.05
        schedule.take(arrived(number, at_s))
        for step in range(10):
            schedule.take(Moved(at_s + step * 0.004, number, "decode" if step % 2 else "paused"))
        schedule.take(emitted(at_s, at_s + 0.045, number))
        if number % 2:
            schedule.take(Moved(at_s + 0.045, number, "finished"))
            schedule.take(Moved(at_s + 0.045, number - 1, "dropped"))
    assert (schedule.arrived, schedule.folded) == (3_000, 3_000 - len(schedule.rows))
    assert 40 <= len(schedule.rows) <= 44
    assert len(schedule._live) < 4
    assert all(span[2] > schedule.now_s - 2.2 for row in schedule.rows.values() for span in row.spans)
    assert len(schedule.kv.points()) <= 3 * SLICES + 3


def test_a_request_that_thrashes_keeps_its_newest_spans() -> None:
    moves = [Moved(i * 0.001, 0, "decode" if i % 2 else "paused") for i in range(5_000)]
    spans = scheduled([arrived(0, 0.0), *moves]).rows[0].spans
    assert len(spans) == KEEP_SPANS
    assert spans[-1][2] == pytest.approx(4.999)


def test_a_folded_request_that_still_runs_does_not_come_back() -> None:
    schedule = scheduled([arrived(number, 0.0) for number in range(3)], most_rows=2)
    schedule.take(Moved(1.0, 0, "decode"))
    schedule.take(emitted(1.0, 1.1, 0, 1))
    assert (list(schedule.rows), schedule.folded) == ([1, 2], 1)


def test_a_request_that_came_during_an_iteration_keeps_its_time_of_arrival() -> None:
    schedule = scheduled([arrived(0, 0.0), emitted(0.0, 9.0, 0), arrived(1, 3.0), Moved(9.0, 1, "prefill")])
    assert schedule.rows[1].spans_until(9.0) == [("waiting", 3.0, 9.0)]
    assert schedule.arrived == 2


@pytest.mark.parametrize("again", [arrived(0, 50.0), arrived(7, 3.0), emitted(3.0, 3.1)])
def test_a_record_of_an_earlier_time_or_a_known_arrival_begins_a_new_run(again: Record) -> None:
    schedule = scheduled([arrived(0, 5.0), arrived(1, 5.0), emitted(5.0, 50.0, 0, 1), again])
    assert schedule.now_s == pytest.approx(0.1 if isinstance(again, Iteration) else 0.0)
    assert len(schedule.rows) == isinstance(again, Arrived)


def test_a_request_whose_arrival_did_not_come_gets_a_row() -> None:
    schedule = scheduled([emitted(4.0, 5.0, 8), Moved(5.5, 8, "paused")])
    assert schedule.rows[8].name == "request 8"
    assert schedule.rows[8].spans_until(2.0) == [("paused", 1.5, 2.0)]


def test_no_kv_is_held_when_the_last_request_has_ended() -> None:
    moves: list[tuple[float, State]] = [(0, "prefill"), (1, "decode"), (2, "finished")]
    schedule = scheduled(
        [arrived(0, 0.0), emitted(0.0, 2.0, 0), *(Moved(at_s, 0, state) for at_s, state in moves)]
    )
    assert schedule.kv_peak == 50
    assert schedule.kv.last == (2.0, 0)
    assert (schedule.running, schedule.kv_tokens) == (0, 0)


def lightness(colour: str) -> float:
    """CIE 1976 L*, 0 (black) to 100 (white), of an sRGB colour."""
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in to_rgb(colour)]
    luminance = float(np.dot(linear, [0.2126, 0.7152, 0.0722]))
    return 116 * luminance ** (1 / 3) - 16 if luminance > 0.008856 else 903.3 * luminance


@pytest.mark.parametrize("tall", [True, False])
@pytest.mark.parametrize("theme", ["colour", "dark"])
def test_states_of_one_height_differ_in_lightness(tall: bool, theme: str) -> None:
    shades = sorted(lightness(getattr(look, theme)) for look in LOOKS.values() if look.tall == tall)
    assert len(shades) == 3
    assert min(darker - lighter for lighter, darker in pairwise(shades)) > 15


def test_every_state_has_a_look_or_is_an_end() -> None:
    assert LOOKS.keys() | ENDS == set(get_args(State))
