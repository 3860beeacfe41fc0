"""What the widgets keep and compute, without a widget: tints, rates, bounded text and lines."""

import pytest

from labkit.widgets.columns import KEEP_CHARS, KEEP_RUNS, Column
from labkit.widgets.lines import PeakLine
from labkit.widgets.palette import TICKS_MS, TINTS, height_of, tint_of

MS = 1_000_000


def test_figures_and_tints_come_from_the_stamps() -> None:
    column = Column("sse")
    column.start(1000 * MS)
    for at_ms in (1300, 1320, 1320, 1420):
        column.push("x", at_ms * MS)
    assert [TINTS[tint].from_ms for tint, _ in column.runs] == [250, 10, 0, 60]
    assert (column.tokens, column.ttft_ms, column.itl_ms) == (4, 300.0, 100.0)
    column.finish("finished: length", failed=False)
    assert column.per_s() == pytest.approx(3 / 0.12)
    column.start(0)
    assert (column.tokens, column.text(), column.note) == (0, "", "")


def test_rate_follows_the_last_second() -> None:
    column = Column("sse")
    for i in range(200):
        column.push("x", i * 10 * MS)
        column.delta()
    for i in range(1, 30):
        column.push("x", (1990 + i * 50) * MS)
        column.delta()
    assert column.per_s() == pytest.approx(20, rel=0.01)


def test_text_and_runs_are_bounded() -> None:
    column = Column("sse")
    for i in range(20_000):
        column.push("word ", i * MS * (1 + 20 * (i % 2)))
    assert len(column.runs) <= KEEP_RUNS
    assert len(column.text()) <= KEEP_CHARS
    assert column.tokens == 20_000
    assert column.folded + len(column.text()) == 100_000


def test_a_line_of_waits_is_bounded_and_keeps_peaks_and_zeros() -> None:
    line = PeakLine(window_s=10, most=600)
    for i in range(100_000):
        line.push(i * 0.001, 90.0 if i % 100 == 50 else 0.0 if i % 100 == 51 else 4.0)
    points = line.points()
    assert len(points) <= 600
    assert sum(1 for _, ms in points if ms == 90.0) >= 95
    assert sum(1 for _, ms in points if ms == 0.0) >= 95
    assert points == sorted(points, key=lambda point: point[0])
    assert points[0][0] < 100 - 9.9


def test_a_slow_line_of_waits_keeps_every_point() -> None:
    line = PeakLine(window_s=10)
    for i in range(100):
        line.push(i * 0.1, float(i))
    assert [ms for _, ms in line.points()] == [float(i) for i in range(100)]


def test_scales_show_nothing_and_half_a_second() -> None:
    assert height_of(0) == 0.0
    assert height_of(500) / height_of(TICKS_MS[-1]) > 0.5
    assert [tint_of(ms) for ms in (-1, 0, 1.9, 2, 249, 1e6)] == [0, 0, 0, 1, 5, 6]
