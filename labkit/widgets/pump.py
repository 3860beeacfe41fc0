"""The pump: one thread that hands on, 30 times a second, what any thread has put in.

A producer only appends to its widget's inbox. The pump's thread starts with the first item, empties every
inbox that is awake, and ends when all have gone quiet: nothing has to be closed, and a cell that is run
again leaves no thread behind.
"""

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

_log = logging.getLogger(__name__)

Item = TypeVar("Item")


class Pumped(Protocol):
    """What the pump serves."""

    def pumped(self) -> bool:
        """Hand on what waits; False to be left alone until the next `Pump.wake`."""


class Pump:
    """Serves its awake members `hertz` times a second in one daemon thread, which ends when none is awake."""

    def __init__(self, hertz: float = 30.0) -> None:
        self._period_s = 1.0 / hertz
        self._lock = threading.Lock()
        self._awake: dict[Pumped, None] = {}
        self._thread: threading.Thread | None = None

    @property
    def running(self) -> bool:
        """Whether the thread is there."""
        return self._thread is not None

    def wake(self, member: Pumped) -> None:
        """Serve `member` from now on, until it asks to be left alone. Any thread may call it."""
        with self._lock:
            self._awake[member] = None
            if self._thread is None:
                self._start()

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name="labkit-widget-pump", daemon=True)
        # An interpreter that is going down starts no thread; what is still to be drawn is not worth an error.
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

    def _serve(self, member: Pumped) -> None:
        with self._lock:
            self._awake.pop(member)
        if member.pumped():
            with self._lock:
                self._awake[member] = None


PUMP = Pump()


class Inbox(Generic[Item]):
    """What producers put in, in order, until the pump hands it to `take`.

    `take` gets the items of one drain (perhaps none) and says whether it wants to be called again though
    nothing new may come. One lock is held across drain and `take`, so items keep their order whichever
    thread drains. An exception in `take` is logged once and never reaches a producer.
    """

    def __init__(self, take: Callable[[list[Item]], bool], pump: Pump = PUMP) -> None:
        self._take = take
        self._pump = pump
        self._items: deque[Item] = deque()
        self._lock = threading.Lock()
        self._awake = False
        self._complained = False

    def put(self, item: Item) -> None:
        """Add an item. O(1), from any thread, without waiting for a drain."""
        self._items.append(item)
        if not self._awake:
            self.wake()

    def wake(self) -> None:
        """Have `take` called at the next beat even if nothing was put in."""
        self._awake = True
        self._pump.wake(self)

    def flush(self) -> None:
        """Hand on what waits now, in the calling thread; what `take` raises, this raises."""
        with self._lock:
            self._drain()

    def pumped(self) -> bool:
        """The pump's beat: hand on what waits; False once there is nothing more to do."""
        try:
            with self._lock:
                again = self._drain()
        except Exception:
            again = False
            if not self._complained:
                _log.exception("a widget could not be fed")
            self._complained = True
        # The flag falls before the second look: a producer either sees it down or is seen here.
        self._awake = again
        if not again and self._items:
            self._awake = True
        return self._awake

    def _drain(self) -> bool:
        return self._take([self._items.popleft() for _ in range(len(self._items))])
