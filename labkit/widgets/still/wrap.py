"""Cuts tinted text into lines of a given length."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence

from labkit.widgets.columns import TextRun, append_run


def last_lines(runs: Iterable[TextRun], letters: int, count: int) -> Iterable[list[TextRun]]:
    """Return a text's last `count` lines of up to `letters` letters, cut after a space where there is one."""
    return deque(_lines(runs, letters), maxlen=count)


def _lines(runs: Iterable[TextRun], letters: int) -> Iterator[list[TextRun]]:
    tinted = [(tint, letter) for tint, text in runs for letter in text]
    while tinted:
        cut = _cut("".join(letter for _, letter in tinted[: letters + 1]), letters)
        yield _grouped(tinted[: min(cut, letters)])
        tinted = tinted[cut:]


def _cut(text: str, letters: int) -> int:
    newline = text.find("\n", 0, letters)
    if newline >= 0:
        return newline + 1
    if len(text) <= letters:
        return len(text)
    space = text.rfind(" ", 0, letters + 1)
    return space + 1 if space > 0 else letters


def _grouped(tinted: Sequence[TextRun]) -> list[TextRun]:
    grouped: list[TextRun] = []
    for tint, letter in tinted:
        if letter != "\n":
            append_run(grouped, tint, letter)
    return grouped
