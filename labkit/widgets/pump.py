"""The pump: one thread that empties, 30 times a second, the inboxes that other threads fill.

A producer only appends to an inbox. The pump's thread starts with the first item, empties every inbox that is
awake, and ends when none is. So no one has to close it, and a cell that runs again leaves no thread.
"""

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from labkit.log import failure

_log = logging.getLogger(__name__)

Item = TypeVar("Item")


class Member(Protocol):
    """What the pump serves."""

    def beat(self) -> bool:
        """Hand on what waits; return False to sleep until the next `Pump.wake`."""


class Pump:
    """Serves its awake members `hertz` times a second in one daemon thread, which ends when none is awake."""

    def __init__(self, hertz: float = 30.0) -> None:
        self._period_s = 1.0 / hertz
        self._lock = threading.Lock()
        self._awake: dict[Member, None] = {}
        self._thread: threading.Thread | None = None

    @property
    def running(self) -> bool:
        """Whether the thread runs."""
        return self._thread is not None

    def wake(self, member: Member) -> None:
        """Serve `member` until it wants to sleep. Any thread may call this."""
        with self._lock:
            self._awake[member] = None
            if self._thread is None:
                self._start()

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name="labkit-widget-pump", daemon=True)
        # An interpreter that shuts down starts no thread. A view that is not up to date then is no error.
        with contextlib.suppress(RuntimeError):
            thread.start()
            self._thread = thread

    def _run(self) -> None:
        while True:
            began = time.monotonic()
            with self._lock:
                members = tuple(self._awake)
            for member in members:
                self._serve(member)
            with self._lock:
                if not self._awake:
                    self._thread = None
                    return
            time.sleep(max(0.002, self._period_s - (time.monotonic() - began)))

    def _serve(self, member: Member) -> None:
        with self._lock:
            self._awake.pop(member)
        if member.beat():
            with self._lock:
                self._awake[member] = None


PUMP = Pump()


class Inbox(Generic[Item]):
    """A queue that any thread may fill and that the pump empties into `take`.

    `take` gets the items of one beat, perhaps none. It returns whether it wants the next beat even if nothing
    new comes. `lock` is held while items are taken out and while `take` runs, so the items keep their order
    whichever thread empties the inbox. The log gets the first exception of `take`; a producer gets none.
    """

    def __init__(self, take: Callable[[list[Item]], bool], pump: Pump = PUMP) -> None:
        self.lock = threading.Lock()
        self._take = take
        self._pump = pump
        self._items: deque[Item] = deque()
        self._awake = False
        self._complained = False

    def put(self, item: Item) -> None:
        """Add an item. O(1), from any thread, without a wait for `take`."""
        self._items.append(item)
        if not self._awake:
            self.wake()

    def wake(self) -> None:
        """Call `take` at the next beat even if nothing was put in."""
        self._awake = True
        self._pump.wake(self)

    def flush(self) -> None:
        """Hand on what waits, in the calling thread; raise what `take` raises."""
        with self.lock:
            self._drain()

    def beat(self) -> bool:
        """Hand on what waits; return False when there is nothing more to do."""
        try:
            with self.lock:
                again = self._drain()
        except Exception as error:
            again = False
            if not self._complained:
                failure(_log, "a widget could not be fed", error)
            self._complained = True
        # Clear the flag before taking the items: then a producer sees the cleared flag, or its item is here.
        self._awake = again
        if not again and self._items:
            self._awake = True
        return self._awake

    def _drain(self) -> bool:
        return self._take([self._items.popleft() for _ in range(len(self._items))])
