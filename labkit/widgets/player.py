"""Plays a recorded run into a view, at its own pace or another, from a thread that can be stopped."""

import threading
import time
from collections.abc import Iterable
from typing import Protocol

from labkit.engine.trace import Record
from labkit.widgets.schedule import clock_s


class RecordView(Protocol):
    """What a run can be played into, such as a `ScheduleView`."""

    def put(self, record: Record) -> None:
        """Show a record."""

    def clear(self) -> None:
        """Empty the view."""


class Replay:
    """A run that plays until its end, until `stop`, or until another run plays into the same view."""

    def __init__(self, records: list[Record], view: RecordView, speed: float) -> None:
        self._records = records
        self._view = view
        self._speed = speed
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="labkit-replay", daemon=True)
        _playing[view] = self
        view.clear()
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether it still plays."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """End the thread, and return when it has ended. Safe to call twice."""
        self._stopped.set()
        self._thread.join()

    def wait(self, timeout: float | None = None) -> None:
        """Return when the run has played to its end or was stopped.

        Raises:
            TimeoutError: the run takes longer than `timeout` seconds; it plays on.
        """
        self._thread.join(timeout)
        if self.running:
            raise TimeoutError(f"still playing after {timeout} s: wait longer, play it faster or stop it")

    def __repr__(self) -> str:
        return f"<replay, {'running' if self.running else 'over'}>"

    def _run(self) -> None:
        began = time.monotonic()
        try:
            for record in self._records:
                due = began + (clock_s(record) - clock_s(self._records[0])) / self._speed
                if self._stopped.wait(max(0.0, due - time.monotonic())):
                    return
                self._view.put(record)
        finally:
            del _playing[self._view]


_playing: dict[RecordView, Replay] = {}


def replay(records: Iterable[Record], view: RecordView, speed: float = 1.0) -> Replay:
    """Play `records` into `view` in the background, `speed` times as fast as the run was.

    It first empties the view and stops a replay that still plays into it, so a cell may be run again.

    Raises:
        ValueError: `speed` is not positive.
        Exception: what iterating over `records` raises.
    """
    if not speed > 0:
        raise ValueError(f"speed must be positive, not {speed}")
    run = list(records)
    if (before := _playing.get(view)) is not None:
        before.stop()
    return Replay(run, view, speed)
