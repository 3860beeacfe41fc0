"""Findings: one that does not hold is a line for a learner, and for a test an error or inconclusive."""

import pytest

from labkit.figures import quiet
from labkit.lesson import finding, guessed, settle
from labkit.lesson.findings import MODE, SHORTEST_S, Measurement


@pytest.fixture(params=["strict", None], ids=["tested", "learning"])
def either(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    set_mode(monkeypatch, request.param)


def set_mode(monkeypatch: pytest.MonkeyPatch, mode: str | None) -> None:
    if mode is None:
        monkeypatch.delenv(MODE, raising=False)
    else:
        monkeypatch.setenv(MODE, mode)


def others_use(monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    monkeypatch.setattr(quiet.Neighbours, "share", lambda _: share)


@pytest.mark.parametrize("share", [0.0, 0.9])
@pytest.mark.usefixtures("either")
def test_what_holds_is_one_line_without_figures(
    share: float, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    others_use(monkeypatch, share)
    finding("SSE is sooner", True, sse_ms=5.2, rest_ms=1982.3)
    settle("it is twice as fast", "holds", gain="2.10×")
    assert capsys.readouterr().out == "✓ SSE is sooner\n✓ it is twice as fast\n"


def test_a_learner_reads_what_this_run_did_not_show_with_its_figures(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    set_mode(monkeypatch, None)
    others_use(monkeypatch, 0.0)
    finding("SSE is sooner", False, sse_ms=5.21, rest_ms=1982.3, tokens=12)
    settle("it is twice as fast", "fails", gain="1.10×")
    finding("no id is missing", False)
    others_use(monkeypatch, 0.43)
    finding("SSE is sooner", False, sse_ms=5.21)
    assert capsys.readouterr().out.splitlines() == [
        "not in this run: SSE is sooner — sse_ms 5.21, rest_ms 1,982, tokens 12",
        "not in this run: it is twice as fast — gain 1.10×",
        "not in this run: no id is missing",
        "not in this run: SSE is sooner — sse_ms 5.21, others used 43% of the cores",
    ]


def test_a_test_fails_where_the_machine_was_quiet_enough_to_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    set_mode(monkeypatch, "strict")
    others_use(monkeypatch, quiet.QUIET)
    with pytest.raises(AssertionError, match=r"not in this run: SSE is sooner — sse_ms 5.2"):
        finding("SSE is sooner", False, sse_ms=5.2)
    with pytest.raises(AssertionError, match=r"twice as fast — gain 1.10×"):
        settle("it is twice as fast", "fails", gain="1.10×")


def test_a_test_is_inconclusive_where_others_used_the_machine(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    set_mode(monkeypatch, "strict")
    others_use(monkeypatch, 0.43)
    finding("SSE is sooner", False, sse_ms=5.2)
    assert (
        capsys.readouterr().out == "inconclusive: SSE is sooner — sse_ms 5.2, others used 43% of the cores\n"
    )


def test_no_machine_is_too_busy_for_exact_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    set_mode(monkeypatch, "strict")
    others_use(monkeypatch, 1.0)
    with pytest.raises(AssertionError, match=r"not in this run: no id is missing$"):
        finding("no id is missing", False)


@pytest.mark.usefixtures("either")
def test_what_is_not_settled_is_an_answer(capsys: pytest.CaptureFixture[str]) -> None:
    settle("it is twice as fast", "inconclusive", gain="1.90×")
    assert capsys.readouterr().out == "? not settled in this run: it is twice as fast\n"


def test_findings_in_a_row_are_on_one_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("labkit.figures.quiet.time.monotonic", lambda: clock[0])
    # The share of this fake is when its window began.
    monkeypatch.setattr(quiet.Neighbours, "share", lambda self: self._began_s)
    measurement = Measurement()
    began: list[float] = []
    for now_s in (10.0, 10.1, 10.2, 20.0, 20.0 + SHORTEST_S / 2):
        clock[0] = now_s
        began.append(measurement.others())
    assert began == [0.0, 0.0, 0.0, 10.0, 10.0]


def test_a_guess_stands_beside_what_was_measured(capsys: pytest.CaptureFixture[str]) -> None:
    guessed(..., 5.157, "ms")
    guessed(7, 5.157, "ms")
    assert capsys.readouterr().out.splitlines() == [
        "You made no guess; just now it was 5.157 ms.",
        "You guessed 7 ms; just now it was 5.157 ms.",
    ]
