"""The schedule on a page that may lose messages, and as a static picture."""

import threading
import time
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from fake_page import FakePage, wait_until
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from labkit.engine.trace import Arrived, Iteration, Moved, Record
from labkit.widgets import ScheduleView, schedule_picture
from labkit.widgets.palette import SOFT
from labkit.widgets.pump import PUMP
from labkit.widgets.schedule import Turned
from labkit.widgets.states import LOOKS

pytestmark = pytest.mark.usefixtures("quick_pump")


def a_run(requests: int = 6, slots: int = 3, tokens: int = 40, step_s: float = 0.01) -> list[Record]:
    """First come, first served by a model with `slots` slots; all come at once, at 100 s."""
    now = 100.0
    records: list[Record] = [
        Arrived(now, number, f"story {number}", 30, tokens, 20.0) for number in range(requests)
    ]
    queue, running, counts = list(range(requests)), list[int](), [0] * requests
    while queue or running:
        joined = [queue.pop(0) for _ in range(min(slots - len(running), len(queue)))]
        records += [Moved(now, number, "prefill") for number in joined]
        running += joined
        began, now = now, now + step_s * (1 + 3 * len(joined))
        for number in running:
            counts[number] += 1
        kv = sum(30 + counts[number] for number in running)
        decodes, waiting = len(running) - len(joined), len(queue)
        records.append(
            Iteration(began, now, 30 * len(joined), decodes, 0, 0, kv, len(running), waiting, list(running))
        )
        records += [Moved(now, number, "decode") for number in joined]
        records += [Moved(now, number, "finished") for number in running if counts[number] == tokens]
        running = [number for number in running if counts[number] < tokens]
    return records


def arrived(number: int, at_s: float) -> Arrived:
    return Arrived(at_s, number, f"story {number}", 10, 20, 10.0)


@pytest.mark.parametrize("bad", [{"window_s": 0}, {"window_s": -1}, {"most_rows": 0}, {"kv_limit": 0}])
def test_a_view_needs_positive_numbers(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        ScheduleView(**bad)


class SchedulePage(FakePage):
    """Keeps what schedule.js keeps: by row its state, spans and line; and the line of KV."""

    def __init__(self, view: ScheduleView, **options: Any) -> None:
        super().__init__(view, self.draw, **options)

    def draw(self, change: dict[str, Any]) -> None:
        if change["reset"]:
            self.rows: dict[int, dict[str, Any]] = {}
            self.kv: list[Any] = []
        for number in change["gone"]:
            self.rows.pop(number, None)
        for number, row in change["rows"]:
            before = self.rows.get(number, {"spans": [], "closed": []})
            spans, closed = before["spans"] + row["spans"], before["closed"] + row["buffer"]["closed"]
            line = closed + row["buffer"]["open"]
            self.rows[number] = {"spans": spans, "closed": closed, "state": row["state"], "line": line}
        self.kv, self.kv_open = self.kv + change["kv"]["closed"], change["kv"]["open"]

    def shows(self) -> tuple[Any, ...]:
        rows = {number: (row["state"], row["spans"], row["line"]) for number, row in self.rows.items()}
        return rows, self.kv + self.kv_open


def a_new_page_shows(view: ScheduleView) -> tuple[Any, ...]:
    return SchedulePage(view).shows()


def put_in_pieces(view: ScheduleView, records: list[Record]) -> None:
    def put() -> None:
        for i, record in enumerate(records):
            view.put(record)
            if i % 10 == 0:
                time.sleep(0.02)

    thread = threading.Thread(target=put)
    thread.start()
    thread.join()


@pytest.mark.parametrize("lossy", [False, True])
def test_a_page_that_got_deltas_shows_what_a_new_page_does(lossy: bool) -> None:
    view = ScheduleView()
    page = SchedulePage(view, loses=lambda sequence: lossy and sequence % 5 == 2)
    put_in_pieces(view, a_run())
    wait_until(lambda: not PUMP.running)
    assert page.shows() == a_new_page_shows(view)
    assert [state for state, _, _ in page.shows()[0].values()] == ["finished"] * 6
    assert 2 < len(page.deltas) <= len(a_run()) / 3


def test_a_folded_request_leaves_the_page() -> None:
    view = ScheduleView(most_rows=2)
    page = SchedulePage(view)
    for number in range(4):
        view.put(arrived(number, float(number)))
        view.flush()
    assert list(page.rows) == [2, 3]
    assert view.state["snapshot"]["folded"] == 2


def test_clear_empties_the_page() -> None:
    view = ScheduleView()
    page = SchedulePage(view)
    for record in a_run(requests=3):
        view.put(record)
    view.flush()
    assert len(page.rows) == 3
    view.clear()
    view.flush()
    assert page.shows() == ({}, [])
    assert view.schedule().words() == "Nothing has been scheduled yet."


def pixels(png: bytes, colour: str) -> Any:
    """Where a PNG has exactly this colour, not see-through, legend aside: rows and columns."""
    image = imread(BytesIO(png))[:-56]
    return np.nonzero(np.all(np.abs(image - (*to_rgb(colour), 1.0)) < 1 / 255, axis=2))


def test_the_picture_draws_each_state_that_was_and_no_other() -> None:
    run = a_run()
    picture = schedule_picture(run, kv_limit=300)
    drawn = {state: len(pixels(picture.png, look.colour)[0]) > 50 for state, look in LOOKS.items()}
    assert [state for state, there in drawn.items() if there] == ["waiting", "prefill", "decode"]
    dropped = schedule_picture(
        [*run, arrived(9, 101.2), Moved(101.3, 9, "evicted"), Moved(101.6, 9, "dropped")]
    )
    assert len(pixels(dropped.png, LOOKS["evicted"].colour)[0]) > 50


def test_the_picture_shows_a_prefill_however_short_it_was() -> None:
    moves = [Moved(5.0, 0, "prefill"), Moved(5.001, 0, "decode"), Moved(30.0, 0, "finished")]
    picture = schedule_picture([arrived(0, 0.0), *moves])
    assert len(pixels(picture.png, LOOKS["prefill"].colour)[0]) > 20


def test_states_that_take_turns_too_fast_to_see_get_their_share() -> None:
    turns = [
        Moved(i * 0.002 + (0.0005 if i % 2 else 0), 0, "paused" if i % 2 else "decode") for i in range(5_000)
    ]
    picture = schedule_picture([arrived(0, 0.0), *turns[-900:]])
    decode, paused = (len(pixels(picture.png, LOOKS[state].colour)[0]) for state in ("decode", "paused"))
    assert 1.2 < decode / paused < 2.2


def test_the_picture_has_its_figures_in_alt_and_none_in_its_title() -> None:
    view = ScheduleView(kv_limit=300)
    assert "Nothing has been scheduled" in view.picture().alt
    for record in a_run():
        view.put(record)
    picture = view.picture()
    assert repr(picture) == "Picture(schedule)"
    assert "6 requests" in picture.alt
    assert "6 finished" in picture.alt
    assert "up to 210 tokens" in picture.alt


def test_the_picture_draws_the_kv_limit_across() -> None:
    longest = [
        max(np.bincount(pixels(schedule_picture(a_run(), limit).png, SOFT)[0])) for limit in (None, 300)
    ]
    assert longest[1] > 800 > 2 * longest[0]


def test_a_turned_knob_is_marked_across_the_lanes_and_the_picture_has_no_background() -> None:
    run = a_run()
    turned = schedule_picture([*run, Turned(100.2, "tokenflow")])
    plain = schedule_picture(run)
    assert len(pixels(turned.png, SOFT)[0]) > len(pixels(plain.png, SOFT)[0]) + 200
    assert imread(BytesIO(turned.png))[0, 0, 3] == 0
    view = ScheduleView()
    view.put(Turned(1.0, "before the run"))
    for record in [*run, Turned(100.2, "tokenflow")]:
        view.put(record)
    view.flush()
    [(at_s, text)] = view.state["snapshot"]["turns"]
    assert (at_s, text) == (pytest.approx(0.2), "tokenflow")


def test_several_runs_share_one_time_axis() -> None:
    fast, slow = a_run(), a_run(step_s=0.02)
    picture = schedule_picture({"fast": fast, "slow": slow})
    rows, columns = pixels(picture.png, LOOKS["decode"].colour)
    middle = (rows.min() + rows.max()) / 2
    left = columns.min()
    ratio = (columns[rows > middle].max() - left) / (columns[rows < middle].max() - left)
    assert 1.8 < ratio < 2.2
    assert repr(picture) == "Picture(schedules of fast, slow)"
    assert picture.alt.count("6 finished") == 2


def test_a_picture_of_nothing_or_of_too_many_runs_is_refused() -> None:
    with pytest.raises(ValueError, match="no records to draw"):
        schedule_picture([])
    with pytest.raises(ValueError, match="fcfs: no records"):
        schedule_picture({"static": a_run(), "fcfs": []})
    with pytest.raises(ValueError, match="1 to 5 runs, not 6"):
        schedule_picture({str(number): a_run() for number in range(6)})
    with pytest.raises(ValueError, match="1 to 5 runs, not 0"):
        schedule_picture({})


def test_a_cell_shows_a_stable_text_for_a_view() -> None:
    bundle: Any = ScheduleView()._repr_mimebundle_()
    assert (bundle[0] if isinstance(bundle, tuple) else bundle)["text/plain"] == "ScheduleView()"
