"""Helpers for the chapters: findings, exercises that check an answer, tables, raw messages."""

from labkit.lesson.exercises import Lines, check, lines
from labkit.lesson.findings import finding, guessed, settle
from labkit.lesson.messages import Messages
from labkit.lesson.mishaps import tell_in_one_line
from labkit.lesson.proxies import pass_loopback_by
from labkit.lesson.small import Writer, in_background, silent_reader
from labkit.lesson.tables import chunk_sizes, figures_table, runs_table

__all__ = [
    "Lines",
    "Messages",
    "Writer",
    "check",
    "chunk_sizes",
    "figures_table",
    "finding",
    "guessed",
    "in_background",
    "lines",
    "runs_table",
    "settle",
    "silent_reader",
]

pass_loopback_by()
tell_in_one_line()
