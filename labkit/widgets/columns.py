"""What a token view shows of its streams, without a widget: tinted text and live figures."""

import time
from collections import deque
from collections.abc import Iterable
from typing import Any, Literal

from labkit.widgets.palette import tint_of

KEEP_CHARS = 40_000
KEEP_RUNS = 3_000
RUN_CHARS = 1_000
_RATE_WINDOW_NS = 1_000_000_000

TextRun = tuple[int, str]
"""An index in `palette.TINTS`, and the text of neighbouring tokens that have this tint."""

StreamEvent = tuple[Literal["start", "push", "finish", "fail"], int, str, int]
"""What happened, in which column, with which text, and when (ns)."""


def append_run(runs: list[TextRun] | deque[TextRun], tint: int, text: str) -> None:
    """Add `text` to the last run if both have one tint and the run is short enough, else add a run."""
    if runs and runs[-1][0] == tint and len(runs[-1][1]) < RUN_CHARS:
        runs[-1] = (tint, runs[-1][1] + text)
    else:
        runs.append((tint, text))


class Column:
    """One stream's text, as runs of one tint, and its figures. Times are ns of one `time.monotonic_ns`.

    It keeps the newest 40,000 characters, in at most 3,000 runs; `folded` counts the characters it dropped.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.reset()

    def reset(self) -> None:
        """Become empty."""
        self.tokens = 0
        self.ttft_ms: float | None = None
        self.itl_ms: float | None = None
        self.note = ""
        self.failed = False
        self.runs: deque[TextRun] = deque()
        self.folded = 0
        self._chars = 0
        self._sent_ns: int | None = None
        self._first_ns = 0
        self._last_ns = 0
        self._marks: deque[tuple[int, int]] = deque()
        self._ended_ns: int | None = None
        self._fresh: list[TextRun] = []
        self._emptied = True

    def start(self, sent_ns: int) -> None:
        """Become empty for a request that was sent at `sent_ns`."""
        self.reset()
        self._sent_ns = sent_ns

    def push(self, text: str, received_ns: int) -> None:
        """Add a token that became readable at `received_ns`."""
        tint = tint_of(self._waited_ms(received_ns))
        self.tokens += 1
        self._last_ns = received_ns
        append_run(self._fresh, tint, text)
        append_run(self.runs, tint, text)
        self._chars += len(text)
        self._fold()

    def finish(self, note: str, failed: bool) -> None:
        """Note how the stream ended."""
        self.note, self.failed, self._ended_ns = note, failed, time.monotonic_ns()

    def text(self) -> str:
        """Return the text, as far as it is kept."""
        return "".join(text for _, text in self.runs)

    def snapshot(self) -> dict[str, Any]:
        """Return all that a page needs to draw the column from nothing."""
        return {"reset": True, "folded": self.folded > 0, "runs": list(self.runs), "head": self._head()}

    def delta(self) -> dict[str, Any]:
        """Return what came since the last delta."""
        if self.tokens and (not self._marks or self._marks[-1][1] != self.tokens):
            self._marks.append((self._last_ns, self.tokens))
        while len(self._marks) > 2 and self._last_ns - self._marks[1][0] >= _RATE_WINDOW_NS:
            self._marks.popleft()
        delta = {"reset": self._emptied, "folded": self.folded > 0, "runs": self._fresh, "head": self._head()}
        self._fresh, self._emptied = [], False
        return delta

    def _head(self) -> dict[str, Any]:
        return {
            "tokens": self.tokens,
            "waiting": self.waiting,
            "waited_ms": self.waited_ms(),
            "ttft_ms": self.ttft_ms,
            "itl_ms": self.itl_ms,
            "per_s": self.per_s(),
            "note": self.note,
            "failed": self.failed,
        }

    def per_s(self) -> float | None:
        """Return tokens per second: of the last second, or of the whole stream once it has ended."""
        if self._ended_ns is not None and self.tokens > 1:
            from_ns, before = self._first_ns, 1
        elif self._marks:
            from_ns, before = self._marks[0]
        else:
            return None
        passed_ns = self._last_ns - from_ns
        return (self.tokens - before) * 1e9 / passed_ns if passed_ns > 0 else None

    @property
    def waiting(self) -> bool:
        """Whether the first token is to come."""
        return self._sent_ns is not None and not self.tokens and self._ended_ns is None

    def waited_ms(self) -> float | None:
        """Return how long the first token was waited for: until it or the stream's end came, or until now."""
        if self.ttft_ms is not None or self._sent_ns is None or self.tokens:
            return self.ttft_ms
        return ((self._ended_ns or time.monotonic_ns()) - self._sent_ns) / 1e6

    def _waited_ms(self, received_ns: int) -> float:
        if self.tokens:
            self.itl_ms = (received_ns - self._last_ns) / 1e6
            return self.itl_ms
        self._first_ns = received_ns
        if self._sent_ns is None:
            return 0.0
        self.ttft_ms = (received_ns - self._sent_ns) / 1e6
        return self.ttft_ms

    def _fold(self) -> None:
        while self._chars > KEEP_CHARS or len(self.runs) > KEEP_RUNS:
            dropped = len(self.runs.popleft()[1])
            self._chars -= dropped
            self.folded += dropped


class Columns:
    """The streams of a token view, side by side. `LiveView` calls it under a lock.

    A snapshot or a delta is a list of `[place, column]`, with a column as `Column` writes it.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.columns = [Column(name) for name in names]
        self._changed: set[int] = set()

    def take(self, event: StreamEvent) -> None:
        """Apply an event to its column."""
        kind, place, text, at_ns = event
        column = self.columns[place]
        self._changed.add(place)
        if kind == "push":
            column.push(text, at_ns)
        elif kind == "start":
            column.start(at_ns)
        else:
            column.finish(text, failed=kind == "fail")

    def reset(self) -> None:
        """Empty every column."""
        for column in self.columns:
            column.reset()
        self._changed.update(range(len(self.columns)))

    def snapshot(self) -> list[tuple[int, dict[str, Any]]]:
        """Return every column as a whole."""
        return [(place, column.snapshot()) for place, column in enumerate(self.columns)]

    def delta(self) -> list[tuple[int, dict[str, Any]]]:
        """Return what came since the last delta, of the columns that changed."""
        changed, self._changed = sorted(self._changed), set()
        return [(place, self.columns[place].delta()) for place in changed]
