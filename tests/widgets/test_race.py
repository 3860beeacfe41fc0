"""The race of interfaces: one cell shows it, what it draws while it runs, and the marks of its knobs."""

from collections.abc import Iterator
from itertools import pairwise

import pytest
from support import PATIENCE_S

import labkit
from labkit.launch.server import Server
from labkit.widgets import Picture, Race, panel

ASK = labkit.GenerateRequest(prompt="count", max_tokens=20)

pytestmark = pytest.mark.usefixtures("quick_pump")


@pytest.fixture
def servers() -> Iterator[list[Server]]:
    servers = [labkit.serve(name, "scripted:tokens=20,interval_ms=5") for name in ("rest", "sse")]
    yield servers
    for server in servers:
        server.stop()


def test_one_call_shows_the_panel_runs_it_and_leaves_its_picture(
    servers: list[Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[object] = []
    monkeypatch.setattr(panel, "display", shown.append)
    race = Race(servers, ASK, pace_ms=5)
    recordings = race.live(PATIENCE_S)
    assert [len(recording.events) for recording in recordings.values()] == [22, 22]
    assert shown[0] is race
    assert isinstance(shown[1], Picture)


def test_rests_long_wait_is_drawn_and_stays(servers: list[Server]) -> None:
    race = Race(servers, ASK, pace_ms=5)
    race.run(PATIENCE_S)
    rest, sse = race.plot.points()["rest"], race.plot.points()["sse"]
    longest_ms = max(ms for _, ms in rest)
    assert rest[0][1] == rest[1][1] == longest_ms > 50, "its line begins when it was asked for"
    assert rest[1][0] - rest[0][0] == pytest.approx(longest_ms / 1e3, abs=1e-6)
    assert max(ms for _, ms in sse[2:]) < longest_ms
    column = race.view.columns()[0]
    assert column.ttft_ms == pytest.approx(longest_ms)
    assert not race.plot._waits.open, "nobody waits when the race is over"


def test_a_knob_marks_the_plot_during_a_run_and_not_after_it(servers: list[Server]) -> None:
    race = Race(servers, ASK, pace_ms=50)
    race.start()
    race.knobs["flush"].value = "tokens:4"
    race.knobs["pace"].value = 1
    race.wait(PATIENCE_S)
    race.knobs["flush"].value = "token"
    assert [text for _, text in race.plot.turns()] == ["1 ms a token"], "two turns at once are one"
    race.start()
    assert race.plot.turns() == []
    race.wait(PATIENCE_S)


def test_a_race_with_a_least_time_asks_again_until_it_is_over(servers: list[Server]) -> None:
    race = Race(servers[1:], ASK, pace_ms=0, least_s=0.3)
    recordings = race.run(PATIENCE_S)
    assert len(recordings["sse"].events) == 22, "the recording is that of one answer"
    assert race.view.columns()[0].tokens >= 40
    times = [at_s for at_s, _ in race.plot.points()["sse"]]
    assert times[-1] >= 0.25
    assert all(earlier <= later for earlier, later in pairwise(times))


def test_the_axis_has_the_length_of_the_run(servers: list[Server]) -> None:
    long = ASK.model_copy(update={"max_tokens": 300})
    assert Race(servers, long, pace_ms=40).plot.span_s() == (0.0, 12.0)
    assert Race(servers, ASK, pace_ms=5).plot.span_s() == (0.0, 10.0)
