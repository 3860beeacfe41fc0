"""A chapter's simulated machine, and its tables of runs."""

import io

import pytest
from rich.console import Console

from labkit.lesson import runs_table
from labkit.lesson.site import Andes, Site, chat_bursts, chat_poisson, gain
from labkit.lesson.tables import MOST_FIGURES, READERS_FIGURES, RUN_FIGURES
from labkit.sim.timelines import Summary

JOBS = chat_bursts(seed=0)[:20]


@pytest.fixture(scope="module")
def runs() -> dict[str, Summary]:
    site = Site()
    return {"fcfs": site.run("fcfs", JOBS), "andes": site.run(Andes(interval_s=2.0), JOBS)}


def test_a_switch_changes_the_limits_of_one_run() -> None:
    site = Site()
    tight = site.run("fcfs", JOBS, kv_tokens=1700)
    assert tight.kv_peak <= 1700 < site.run("fcfs", JOBS).kv_peak
    with pytest.raises(TypeError, match="memmory"):
        site.run("fcfs", JOBS, memmory="optimistic")


def test_the_same_seed_gives_the_same_figures(runs: dict[str, Summary]) -> None:
    assert Site().run("fcfs", chat_bursts(seed=0)[:20]) == runs["fcfs"]
    assert chat_poisson(2.0, seed=1) != chat_poisson(2.0, seed=2)
    waits = Site().waits_s("fcfs", JOBS)
    assert waits == sorted(waits)
    assert waits[0] > 0


def test_a_gain_compares_each_run_with_the_one_at_its_place(runs: dict[str, Summary]) -> None:
    same = [runs["fcfs"]] * 3
    assert gain(same, same, "ttft_p99_s").value == 1.0
    with pytest.raises(AttributeError):
        gain(same, same, "speed")


@pytest.mark.parametrize("figure", RUN_FIGURES)
def test_a_table_has_the_figures_that_are_asked_for(runs: dict[str, Summary], figure: str) -> None:
    table = runs_table(runs, figure)
    assert [column.header for column in table.columns] == ["", figure]
    assert table.row_count == 2


def test_a_table_fits_beside_a_narrow_page(runs: dict[str, Summary]) -> None:
    widest = sorted(RUN_FIGURES, key=len)[-MOST_FIGURES:]
    text = io.StringIO()
    named = {"tokenflow, optimistic": runs["fcfs"]}
    Console(file=text, width=200).print(runs_table(named, *widest))
    assert max(map(len, text.getvalue().splitlines())) <= 90
    assert [column.header for column in runs_table(runs).columns[1:]] == list(READERS_FIGURES)
    for wrong in (["speed"], [*RUN_FIGURES][: MOST_FIGURES + 1]):
        with pytest.raises(ValueError, match="up to 4 of these figures"):
            runs_table(runs, *wrong)
