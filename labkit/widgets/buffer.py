"""A reader's buffer: how many tokens have come that the reader has not read yet."""

from labkit.widgets.lines import Point, StepLine

SLICES = 240


class Buffer:
    """Tokens emitted less tokens read, by a reader of `reader_tps` tokens/s.

    The reader starts with the first token, reads steadily, and stalls while nothing is left, so the level is
    never below 0. The unread part of the present token counts: with 2 tokens/s a token is half read after
    0.25 s, and the level is 0.5. Andes (arXiv 2404.16283) and TokenFlow (arXiv 2510.02758) model readers in
    this way. Without a positive `reader_tps` there is no reader.
    """

    def __init__(self, reader_tps: float, window_s: float) -> None:
        self.reader_tps = max(0.0, reader_tps)
        self.line = StepLine(window_s, SLICES)
        self.peak = 0.0
        self._level = 0.0
        self._at_s = 0.0

    def emit(self, at_s: float) -> None:
        """Add a token that came at `at_s`, not earlier than the last one."""
        if not self.reader_tps:
            return
        dry_s = self.dry_s()
        if self._level and dry_s < at_s:
            self.line.push(dry_s, 0.0)
        before = self.level(at_s)
        self._level, self._at_s = before + 1.0, at_s
        self.peak = max(self.peak, self._level)
        self.line.push(at_s, before)
        self.line.push(at_s, self._level)

    def level(self, at_s: float) -> float:
        """Return the unread tokens at `at_s`, not earlier than the last token."""
        return max(0.0, self._level - (at_s - self._at_s) * self.reader_tps)

    def dry_s(self) -> float:
        """Return when the reader will have read all tokens so far."""
        return self._at_s + (self._level / self.reader_tps if self.reader_tps else 0.0)

    def points(self, until_s: float) -> list[Point]:
        """Return the line up to `until_s`, not earlier than the last token."""
        if self.line.last is None:
            return []
        dry_s = self.dry_s()
        bend = [(dry_s, 0.0)] if self._at_s < dry_s < until_s else []
        return [*self.line.points(), *bend, (until_s, self.level(until_s))]
