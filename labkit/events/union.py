"""The closed union of all events. A workload adds its pieces here, on one line; the rest follows from it."""

from labkit.events.common import Failed, Finished, Started
from labkit.events.text import Token

Event = (
    Started
    | Token  # text
    | Finished
    | Failed
)
