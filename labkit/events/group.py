"""One write: the events that travel together, and the times that belong to the write."""

import time

import msgspec

from labkit.events.common import Piece, Stamps
from labkit.events.union import Event


class Group(msgspec.Struct, frozen=True, gc=False):
    """Events in one write, at least one; `flushed_ns` is when the policy let them go, 0 without stamps."""

    events: list[Event]
    flushed_ns: int = 0

    def written(self) -> list[Event]:
        """Return the events as they travel, written now; stamped ones are copies with this write's times."""
        if not self.flushed_ns:
            return self.events
        now = time.monotonic_ns()
        return [self._stamped(event, now) for event in self.events]

    def _stamped(self, event: Event, written_ns: int) -> Event:
        if not isinstance(event, Piece) or event.stamps is None:
            return event
        times = Stamps(event.stamps.sampled, event.stamps.queued, self.flushed_ns, written_ns)
        return msgspec.structs.replace(event, stamps=times)
