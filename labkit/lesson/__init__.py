"""What a chapter needs besides the lab: tables, findings that assert, exercises that check themselves."""

from labkit.lesson.exercises import Lines, check, lines
from labkit.lesson.findings import finding, guessed, settle
from labkit.lesson.messages import Messages
from labkit.lesson.tables import chunk_sizes, figures_table, runs_table

__all__ = [
    "Lines",
    "Messages",
    "check",
    "chunk_sizes",
    "figures_table",
    "finding",
    "guessed",
    "lines",
    "runs_table",
    "settle",
]
