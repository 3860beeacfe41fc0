"""The requests and the events that every interface carries: the vocabulary of the whole lab."""

from labkit.events.common import (
    UNCOUNTED,
    Failed,
    Finished,
    Piece,
    Reason,
    Request,
    Stamps,
    Started,
    Terminal,
    explain,
)
from labkit.events.group import Group
from labkit.events.text import MAX_PROMPT_CHARS, MAX_TOKENS, Answer, GenerateRequest, Token
from labkit.events.union import Event

__all__ = [
    "MAX_PROMPT_CHARS",
    "MAX_TOKENS",
    "UNCOUNTED",
    "Answer",
    "Event",
    "Failed",
    "Finished",
    "GenerateRequest",
    "Group",
    "Piece",
    "Reason",
    "Request",
    "Stamps",
    "Started",
    "Terminal",
    "Token",
    "explain",
]
