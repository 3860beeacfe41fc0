"""The live widgets without a browser: what reaches the page, what is kept, what a static page shows."""

import random
import struct
import threading
import time
from typing import Any

import pytest
from comm import DummyComm
from fake_page import FakePage, wait_until

from labkit.widgets import LatencyPlot, Picture, TokenView, flush_knob, pace_knob, picture, streams_knob
from labkit.widgets.knobs import FLUSH_POLICIES
from labkit.widgets.palette import height_of, lift_of

MS = 1_000_000
NAMES = ["rest", "sse", "websocket", "grpc"]

pytestmark = pytest.mark.usefixtures("quick_pump")


class TokenPage(FakePage):
    """Keeps the texts that token_view.js draws, and which columns the last change was about."""

    def __init__(self, view: TokenView, **options: Any) -> None:
        self.texts = [""] * len(NAMES)
        self.changed: list[int] = []
        super().__init__(view, self.draw, **options)

    def draw(self, changes: list[tuple[int, dict[str, Any]]]) -> None:
        self.changed = [place for place, _ in changes]
        for place, change in changes:
            before = "" if change["reset"] else self.texts[place]
            self.texts[place] = before + text_of(change)


def text_of(column: dict[str, Any]) -> str:
    return "".join(text for _, text in column["runs"])


def push_from_four_threads(view: TokenView, count: int) -> list[str]:
    def produce(name: str) -> None:
        for i in range(count):
            view.push(name, f"{name}{i} ", i * MS)
            if i % 50 == 0:
                time.sleep(0.01)
        view.finish(name, "finished: length")

    threads = [threading.Thread(target=produce, args=(name,)) for name in NAMES]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return ["".join(f"{name}{i} " for i in range(count)) for name in NAMES]


@pytest.mark.parametrize("losses", [0.0, 0.2])
def test_page_and_snapshot_equal_what_four_threads_pushed(losses: float) -> None:
    view = TokenView(NAMES)
    chance = random.Random(3)
    page = TokenPage(view, loses=lambda sequence: chance.random() < losses)
    pushed = push_from_four_threads(view, 800)
    wait_until(lambda: page.texts == pushed)
    wait_until(lambda: [text_of(column) for _, column in view.state["snapshot"]] == pushed)
    heads = [column["head"] for _, column in view.state["snapshot"]]
    assert [(head["tokens"], head["note"]) for head in heads] == [(800, "finished: length")] * 4


def test_only_columns_that_changed_are_sent_and_a_start_or_clear_empties_them() -> None:
    view = TokenView(NAMES)
    page = TokenPage(view)
    for name in NAMES:
        view.push(name, f"old {name}", 0)
    view.flush()
    view.start("sse", 0)
    view.push("sse", "new", 1)
    view.flush()
    assert page.changed == [1]
    assert page.texts == ["old rest", "new", "old websocket", "old grpc"]
    view.clear()
    view.flush()
    assert page.texts == [""] * 4
    assert view.text("sse") == ""


def test_a_failure_is_marked_as_one() -> None:
    view = TokenView(["sse"])
    view.finish("sse", "Unavailable", failed=True)
    view.flush()
    [(_, column)] = view.state["snapshot"]
    assert column["head"]["note"] == "Unavailable"
    assert column["head"]["failed"] is True


@pytest.mark.parametrize("widget", [TokenView, LatencyPlot])
@pytest.mark.parametrize("streams", [[], ["sse", "sse"]])
def test_streams_must_be_named_once(widget: Any, streams: list[str]) -> None:
    with pytest.raises(ValueError, match="named, each once"):
        widget(streams)


def test_a_stream_that_is_not_there_is_an_error_in_the_caller() -> None:
    with pytest.raises(KeyError):
        TokenView(["sse"]).push("grpc", "x", 0)
    with pytest.raises(KeyError):
        LatencyPlot(["sse"]).push("grpc", 0, 1.0)


def test_plot_draws_a_drain_in_one_update() -> None:
    plot = LatencyPlot(NAMES)
    updates: list[set[str]] = []
    plot._lines.comm = DummyComm(primary=False)  # ipykernel's sends nothing where there is no kernel
    plot._lines._send = lambda message, buffers=None: updates.append(set(message["state"]))
    plot._inbox._awake = True
    for i in range(500):
        for name in NAMES[1:]:
            plot.push(name, i * 20 * MS, 20.0)
    plot.flush()
    assert updates == [{"x", "y"}]
    assert plot._lines.x.shape[0] == len(NAMES)
    assert plot._lines.x.shape[1] <= 600
    assert plot._x_scale.max == pytest.approx(10.0)
    assert plot._lines.y[1, -1] == pytest.approx(height_of(20.0) + lift_of(1, height_of(20)))
    assert not plot._lines.y[0].any()
    plot._inbox.wake()


def test_one_point_a_stream_does_not_become_one_line() -> None:
    plot = LatencyPlot(NAMES)
    for name in NAMES:
        plot.push(name, 0, 20.0)
    plot.flush()
    assert plot._lines.x.shape == plot._lines.y.shape == (4, 2)


def test_the_plots_axis_grows_with_the_run_then_follows_and_clear_starts_anew() -> None:
    plot = LatencyPlot(["sse"], window_s=5)
    plot.push("sse", 1_000 * MS, 5.0)
    plot.push("sse", 13_000 * MS, 700.0)
    assert plot.points() == {"sse": [(0.0, 5.0), (12.0, 700.0)]}
    assert (plot._x_scale.min, plot._x_scale.max) == plot.span_s() == (0.0, 12.5)
    assert plot._y_scale.max > height_of(1000)
    plot.push("sse", 23_000 * MS, 5.0)
    assert plot.span_s() == (2.0, 22.0)
    plot.clear()
    assert plot.points() == {"sse": []}
    assert (plot._x_scale.min, plot._x_scale.max) == (0.0, 5.0)


def test_flush_knob_hands_on_policies() -> None:
    values: list[str] = []
    knob = flush_knob(values.append)
    knob.value = "tokens:8"
    knob.value = "ms:250"
    assert values == ["tokens:8", "ms:250"]
    assert next(iter(FLUSH_POLICIES.values())) == "token"
    with pytest.raises(ValueError, match="tokens:3"):
        flush_knob(values.append, "tokens:3")


def test_a_knob_shows_what_its_callback_raised_until_one_goes_well() -> None:
    def set_pace(ms: float) -> None:
        if ms > 100:
            raise RuntimeError("too <slow>")

    knob = pace_knob(set_pace)
    knob.value = 150.0
    message = knob.children[1]
    assert knob.error == "RuntimeError: too <slow>"
    assert "too &lt;slow&gt;" in message.value
    assert message.layout.display is None
    knob.value = 50.0
    assert not knob.error
    assert message.layout.display == "none"


def test_a_knob_may_be_turned_in_any_thread() -> None:
    values: list[int] = []
    knob = streams_knob(values.append, most=8)
    thread = threading.Thread(target=lambda: setattr(knob, "value", 5))
    thread.start()
    thread.join()
    assert (values, knob.value, knob.error) == ([5], 5, "")


@pytest.mark.parametrize(
    ("widget", "text"),
    [
        (TokenView(["rest", "sse"]), "TokenView(rest, sse)"),
        (LatencyPlot(["rest", "sse"]), "LatencyPlot(rest, sse)"),
        (flush_knob(print), "Knob(flush)"),
        (pace_knob(print), "Knob(pace)"),
        (streams_knob(print, 4), "Knob(streams)"),
    ],
)
def test_reprs_are_stable_in_a_cell(widget: Any, text: str) -> None:
    bundle = widget._repr_mimebundle_()
    data = bundle[0] if isinstance(bundle, tuple) else bundle
    assert data["text/plain"] == repr(widget) == text


def size_of(png: bytes) -> tuple[int, int]:
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", png[16:24])
    return width, height


def test_picture_is_a_png_of_both_with_words_for_it() -> None:
    view, plot = TokenView(NAMES), LatencyPlot(NAMES)
    for i in range(50):
        view.push("sse", "漢字 $x$ & <b>\n" if i % 9 == 0 else "token ", i * 20 * MS)
        plot.push("sse", i * 20 * MS, 20.0)
    view.finish("grpc", "refused " * 20, failed=True)
    both = picture(view, plot)
    assert size_of(both.png)[0] == 1920
    assert repr(both) == "Picture(rest, sse, websocket, grpc)"
    assert "sse: 50 tokens" in both.alt
    assert "sse up to 20 ms" in both.alt
    data, metadata = both._repr_mimebundle_()
    assert set(data) == {"image/png", "text/plain"}
    assert metadata["image/png"] == {"width": 960, "alt": both.alt}
    assert size_of(view.picture().png)[1] + size_of(plot.picture().png)[1] == size_of(both.png)[1]
    empty = picture(TokenView(["sse"]))
    assert isinstance(empty, Picture)
    assert empty.png != view.picture().png
    with pytest.raises(ValueError, match="a view or a plot"):
        picture()
