"""What one stream has shown so far: its tinted text and its live figures, without a widget."""

from collections import deque
from typing import Any

from labkit.widgets.palette import tint_of

KEEP_CHARS = 40_000
KEEP_RUNS = 3_000
RUN_CHARS = 1_000
_RATE_WINDOW_NS = 1_000_000_000

Run = tuple[int, str]
"""An index in `palette.TINTS` and the text of neighbouring tokens that share it."""


def append_run(runs: list[Run] | deque[Run], tint: int, text: str) -> None:
    """Add `text` to the last run if that has the same tint and is short enough, else as a run of its own."""
    if runs and runs[-1][0] == tint and len(runs[-1][1]) < RUN_CHARS:
        runs[-1] = (tint, runs[-1][1] + text)
    else:
        runs.append((tint, text))


class Column:
    """One stream's text, as runs of one tint, and its figures. Times are `time.monotonic_ns` of one clock.

    The newest 40,000 characters in at most 3,000 runs are kept; `folded` counts the characters let go.
    Not thread-safe: the widget that owns it calls it under its lock.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.reset()

    def reset(self) -> None:
        """Back to empty."""
        self.tokens = 0
        self.ttft_ms: float | None = None
        self.itl_ms: float | None = None
        self.note = ""
        self.failed = False
        self.runs: deque[Run] = deque()
        self.folded = 0
        self._chars = 0
        self._sent_ns: int | None = None
        self._first_ns = 0
        self._last_ns = 0
        self._marks: deque[tuple[int, int]] = deque()
        self._ended = False
        self._fresh: list[Run] = []
        self._emptied = True

    def start(self, sent_ns: int) -> None:
        """A new request was sent at `sent_ns`: the column empties."""
        self.reset()
        self._sent_ns = sent_ns

    def push(self, text: str, received_ns: int) -> None:
        """One token became readable at `received_ns`."""
        tint = tint_of(self._waited_ms(received_ns))
        self.tokens += 1
        self._last_ns = received_ns
        append_run(self._fresh, tint, text)
        append_run(self.runs, tint, text)
        self._chars += len(text)
        self._fold()

    def finish(self, note: str, failed: bool) -> None:
        """The stream ended, or broke off."""
        self.note, self.failed, self._ended = note, failed, True

    def text(self) -> str:
        """The text that is kept."""
        return "".join(text for _, text in self.runs)

    def snapshot(self) -> dict[str, Any]:
        """All that a page needs to draw the column from nothing."""
        return {"reset": True, "folded": self.folded > 0, "runs": list(self.runs), "head": self._head()}

    def delta(self) -> dict[str, Any]:
        """What came since the last delta."""
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
            "ttft_ms": self.ttft_ms,
            "itl_ms": self.itl_ms,
            "per_s": self.per_s(),
            "note": self.note,
            "failed": self.failed,
        }

    def per_s(self) -> float | None:
        """Tokens per second: over the last second, or over the whole stream once it has ended."""
        if self._ended and self.tokens > 1:
            then, before = self._first_ns, 1
        elif self._marks:
            then, before = self._marks[0]
        else:
            return None
        passed_ns = self._last_ns - then
        return (self.tokens - before) * 1e9 / passed_ns if passed_ns > 0 else None

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
            gone = len(self.runs.popleft()[1])
            self._chars -= gone
            self.folded += gone
