"""The widgets' pump: nothing is lost or reordered, nothing reaches a producer, no thread is left."""

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from fake_page import wait_until

from labkit.widgets.pump import Inbox, Pump


def into(items: list[Any]) -> Callable[[list[Any]], bool]:
    """Make a `take` for an inbox that collects the items and asks for no beat beyond them."""

    def take(new: list[Any]) -> bool:
        items.extend(new)
        return False

    return take


def test_inbox_keeps_the_order_of_each_producer_whoever_drains() -> None:
    items: list[tuple[int, int]] = []
    inbox: Inbox[tuple[int, int]] = Inbox(into(items), Pump(hertz=500))

    def produce(producer: int) -> None:
        for i in range(3000):
            inbox.put((producer, i))
            if i % 500 == 0:
                inbox.flush()

    threads = [threading.Thread(target=produce, args=(producer,)) for producer in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wait_until(lambda: len(items) == 12_000)
    for producer in range(4):
        assert [i for each, i in items if each == producer] == list(range(3000))


def test_an_item_that_comes_as_the_inbox_falls_asleep_is_not_left_behind() -> None:
    received: list[str] = []

    def take(items: list[str]) -> bool:
        if items == ["first"]:
            inbox.put("late")
        received.extend(items)
        return False

    inbox: Inbox[str] = Inbox(take, Pump(hertz=200))
    inbox.put("first")
    wait_until(lambda: received == ["first", "late"])


def test_a_flush_waits_for_the_drain_under_way() -> None:
    events: list[str] = []
    inside = threading.Event()

    def take(items: list[int]) -> bool:
        events.append("in")
        inside.set()
        time.sleep(0.1)
        events.append("out")
        return False

    inbox: Inbox[int] = Inbox(take, Pump(hertz=200))
    inbox.put(1)
    inside.wait(2)
    inbox.flush()
    assert events == ["in", "out", "in", "out"]


def test_pump_beats_at_its_rate_and_its_thread_ends() -> None:
    drains: list[int] = []

    def take(items: list[int]) -> bool:
        drains.append(len(items))
        return len(drains) < 16

    pump = Pump(hertz=30)
    inbox: Inbox[int] = Inbox(take, pump)
    began = time.monotonic()
    inbox.put(1)
    wait_until(lambda: not pump.running)
    assert len(drains) == 16
    assert time.monotonic() - began > 15 / 30 * 0.9


def test_an_error_while_feeding_reaches_the_log_once_and_no_producer(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(items: list[int]) -> bool:
        raise RuntimeError("the page is gone")

    pump = Pump(hertz=200)
    healthy: list[int] = []
    broken: Inbox[int] = Inbox(fail, pump)
    working: Inbox[int] = Inbox(into(healthy), pump)
    for i in range(10):
        broken.put(i)
        working.put(i)
        time.sleep(0.01)
    wait_until(lambda: healthy == list(range(10)))
    (record,) = caplog.records
    assert record.getMessage().startswith("a widget could not be fed: ")
