"""Workloads: arrivals and lengths as stated, the same for a seed; files, and what is wrong with them."""

from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from random import Random
from statistics import fmean, median

import pytest

from labkit.sim import workload
from labkit.sim.workload import Job, LogNormal, Shape, Uniform, bursts, load, poisson, ramp, save

SHORT = Shape(prompt=Uniform(1, 4), output=Uniform(2, 3))


def arrivals(jobs: workload.Workload) -> list[float]:
    return [job.arrival_s for job in jobs]


def gaps(jobs: workload.Workload) -> list[float]:
    times = [0.0, *arrivals(jobs)]
    return [b - a for a, b in pairwise(times)]


def test_poisson_gaps_are_exponential() -> None:
    """Of exponential gaps the mean is 1/rate, and a share of 1 - 1/e is below it."""
    sample = gaps(poisson(4, 10_000, shape=SHORT))
    assert fmean(sample) == pytest.approx(1 / 4, rel=0.05)
    assert sum(gap < 1 / 4 for gap in sample) / len(sample) == pytest.approx(0.632, abs=0.02)


def test_bursts_come_together() -> None:
    jobs = bursts(3, 10, 7, shape=SHORT)
    assert arrivals(jobs) == [0, 0, 0, 10, 10, 10, 20]


@pytest.mark.parametrize(("first", "last"), [(2, 10), (10, 2), (0, 12), (6, 6)])
def test_ramp_goes_from_one_rate_to_the_other(first: float, last: float) -> None:
    """6,000 requests at 6 per second on average take 1,000 s; each tenth is compared with its own rate."""
    times = arrivals(ramp(first, last, 6_000, shape=SHORT))
    for tenth in range(10):
        count = sum(100 * tenth <= time < 100 * (tenth + 1) for time in times)
        expected = 100 * (first + (last - first) * (tenth + 0.5) / 10)
        assert count == pytest.approx(expected, abs=4 * expected**0.5 + 1)


def test_a_seed_repeats_a_workload_and_another_seed_changes_it() -> None:
    assert poisson(4, 50, seed=3) == poisson(4, 50, seed=3)
    assert ramp(1, 4, 50, seed=3) == ramp(1, 4, 50, seed=3)
    first, other = poisson(4, 50, seed=3), poisson(4, 50, seed=4)
    assert arrivals(first) != arrivals(other)
    assert [job.prompt for job in first] != [job.prompt for job in other]


def test_the_rate_changes_when_requests_come_and_not_what_they_are() -> None:
    slow, fast = poisson(1, 50), poisson(8, 50)
    assert arrivals(slow) == pytest.approx([8 * time for time in arrivals(fast)])
    assert [replace(job, arrival_s=0) for job in slow] == [replace(job, arrival_s=0) for job in fast]


def test_lengths_follow_their_distribution() -> None:
    rng = Random(1)
    assert {Uniform(3, 5).draw(rng) for _ in range(200)} == {3, 4, 5}
    drawn = [LogNormal(median=50, sigma=0.7, low=10, high=400).draw(rng) for _ in range(4_000)]
    assert median(drawn) == pytest.approx(50, rel=0.1)
    assert (min(drawn), max(drawn)) == (10, 400)
    assert sum(length > 100 for length in drawn) / 4_000 == pytest.approx(0.161, abs=0.03), "log 2 / 0.7"


def test_requests_have_the_lengths_of_their_shape() -> None:
    jobs = poisson(4, 200, shape=SHORT)
    assert {len(job.prompt) for job in jobs} == {1, 2, 3, 4}
    assert {job.output_tokens for job in jobs} == {2, 3}


def test_readers_are_mixed_by_their_shares() -> None:
    jobs = poisson(4, 4_000, shape=replace(SHORT, readers={8: 2, 15: 2, 20: 1}))
    speeds = Counter(job.reader_tps for job in jobs)
    shares = {speed: count / 4_000 for speed, count in speeds.items()}
    assert shares == pytest.approx({8: 0.4, 15: 0.4, 20: 0.2}, abs=0.03)


def test_a_group_shares_the_first_tokens_and_no_more() -> None:
    jobs = poisson(4, 60, shape=Shape(prompt=Uniform(20, 20), groups=2, prefix_tokens=30))
    heads = {(job.prefix, job.prompt[:30]) for job in jobs}
    assert len(heads) == 2 and {prefix for prefix, _ in heads} == {"group0:30", "group1:30"}
    assert len({job.prompt[30] for job in jobs}) > 20
    assert {len(job.prompt) for job in jobs} == {50}


@pytest.mark.parametrize("name", ["trace.jsonl", "trace.csv"])
def test_a_file_gives_back_the_workload(tmp_path: Path, name: str) -> None:
    jobs = poisson(3, 40, shape=Shape(groups=2, prefix_tokens=16), seed=7)
    save(jobs, tmp_path / name)
    assert load(tmp_path / name, seed=7) == jobs
    assert [len(job.prompt) for job in load(tmp_path / name, seed=8)] == [len(job.prompt) for job in jobs]
    assert load(tmp_path / name, seed=8) != jobs


HEADING = "arrival_s,prompt_tokens,output_tokens,reader_tps"


def test_a_file_by_hand_is_read_in_order_of_arrival(tmp_path: Path) -> None:
    path = tmp_path / "hand.csv"
    path.write_text(
        f"\ufeff{HEADING},prefix\n2.5,3,10,8,\n0.5,4,20,15,chat:2\n1,4,20,15,chat:3\n", encoding="utf-8"
    )
    first, second, third = load(path)
    assert third == Job(2.5, third.prompt, 10, 8.0)
    assert (first.arrival_s, second.arrival_s) == (0.5, 1.0)
    assert first.prompt[:2] == second.prompt[:2] and first.prompt[2:] != second.prompt[2:]


GOOD = '{"arrival_s": 1, "prompt_tokens": 2, "output_tokens": 3, "reader_tps": 8}'


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("nonsense", "malformed"),
        ("[1, 2]", "object"),
        (GOOD.replace("1", '"soon"', 1), r"arrival_s"),
        (GOOD.replace('"prompt_tokens": 2', '"prompt_tokens": 0'), "prompt_tokens"),
        (GOOD.replace('"output_tokens": 3', '"output_tokens": 2.5'), "output_tokens"),
        (GOOD.replace('"reader_tps": 8', '"reader_tps": 0'), "reader_tps"),
        (GOOD.replace(', "reader_tps": 8', ""), "reader_tps"),
        (GOOD.replace('"arrival_s": 1', '"arrival_s": -1'), "arrival_s"),
        (GOOD.replace('"arrival_s"', '"arrived"'), "arrived"),
        (GOOD.replace("}", ', "prefix": "chat"}'), "prefix"),
        (GOOD.replace("}", ', "prefix": "chat:9"}'), "longer than"),
    ],
)
def test_a_bad_json_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(f"{GOOD}\n\n{line}\n{GOOD}\n", encoding="utf-8")
    with pytest.raises(ValueError, match=f"bad.jsonl, line 3: .*{message}"):
        load(path)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("1,x,3,8", "prompt_tokens"),
        ("1,2,3", "reader_tps"),
        ("1,2,3,8,9", "more values than the heading has"),
        ("nan,2,3,8", "arrival_s"),
        ("inf,2,3,8", "finite"),
        ("1,2,3,inf", "finite"),
        ("1,2,3,-8", "reader_tps"),
        ("1,2,3,\xff", "reader_tps"),
    ],
)
def test_a_bad_csv_row_is_named(tmp_path: Path, row: str, message: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_bytes(f"{HEADING}\n1,2,3,8\n{row}\n".encode("latin-1"))
    with pytest.raises(ValueError, match=f"bad.csv, line 3: .*{message}"):
        load(path)


def test_a_heading_that_is_wrong_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "bad.csv"
    path.write_text("time,prompt_tokens,output_tokens,reader_tps\n1,2,3,8\n", encoding="utf-8")
    with pytest.raises(ValueError, match="line 2"):
        load(path)


@pytest.mark.parametrize("text", ["", HEADING])
def test_a_file_without_requests_is_an_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "empty.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match="no requests"):
        load(path)


def test_another_kind_of_file_is_an_error(tmp_path: Path) -> None:
    for act in (lambda path: save([], path), load):
        with pytest.raises(ValueError, match=r"name it \.jsonl"):
            act(tmp_path / "trace.txt")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: poisson(0, 5), "rate"),
        (lambda: poisson(1, 0), "requests"),
        (lambda: bursts(0, 1, 5), "size"),
        (lambda: bursts(2, 1, 0), "requests"),
        (lambda: ramp(-1, 2, 5), "from_rate"),
        (lambda: ramp(1, 0, 5), "to_rate"),
        (lambda: ramp(1, 2, 0), "requests"),
        (lambda: Uniform(0, 3), "low"),
        (lambda: LogNormal(5, 1, 9, 8), "low"),
        (lambda: LogNormal(0, 1, 1, 8), "median"),
        (lambda: Shape(readers={}), "shares"),
        (lambda: Shape(readers={0: 1}), "speeds"),
        (lambda: Shape(groups=2), "prefix_tokens"),
    ],
)
def test_an_impossible_workload_is_refused(make: "type[object]", message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
