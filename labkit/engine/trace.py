"""The records of what a scheduler does, and their watchers, which draw, save or replay them.

Times are seconds of the scheduler's clock: `time.monotonic` in the engine, from 0 in the simulator.
"""

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Literal

import msgspec

from labkit.log import failure

State = Literal["waiting", "prefill", "decode", "paused", "evicted", "swapped", "finished", "dropped"]
"""Where a request is. `paused` keeps its KV and computes nothing; `evicted` has lost its KV and has to
compute it again; `swapped` has its KV in a store outside; `dropped` was cancelled or failed."""


class Arrived(msgspec.Struct, tag="arrived", tag_field="type", frozen=True):
    """A request comes; the records that follow name it by the number `request`."""

    at_s: float
    request: int
    name: str
    prompt_tokens: int
    max_tokens: int
    reader_tps: float


class Moved(msgspec.Struct, tag="moved", tag_field="type", frozen=True):
    """A request changes its state."""

    at_s: float
    request: int
    state: State


class Iteration(msgspec.Struct, tag="iteration", tag_field="type", frozen=True):
    """One pass of the model over the requests that compute.

    Args:
        prefill, decodes: tokens computed, of prompts and of answers.
        attended: pairs of a query and a key, which is what attention costs.
        swapped: tokens whose KV was moved in or out since the iteration before.
        kv_tokens: tokens of KV held at its end.
        running, waiting: requests with KV and without, at its end.
        emitted: the requests that got a token, at `end_s`.
        cached: prompt tokens that the prefix cache had, so that they were not computed.
    """

    start_s: float
    end_s: float
    prefill: int
    decodes: int
    attended: int
    swapped: int
    kv_tokens: int
    running: int
    waiting: int
    emitted: list[int]
    cached: int = 0


Record = Arrived | Moved | Iteration
Watcher = Callable[[Record], None]

_log = logging.getLogger(__name__)
_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Record)


def save(records: Iterable[Record], path: Path) -> None:
    """Write records as JSON lines."""
    path.write_bytes(b"".join(_encoder.encode(record) + b"\n" for record in records))


def load(path: Path) -> Iterator[Record]:
    """Read what `save` wrote.

    Raises:
        ValueError: a line is not a record; the message names the line.
    """
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            yield _decoder.decode(line)
        except msgspec.MsgspecError as error:
            raise ValueError(f"{path}, line {number}: {error}") from None


class Watchers:
    """The functions that get the records of one scheduler, in its thread. They join and leave in any thread.

    A watcher that raises leaves, and the error is logged: a view that fails does not stop the answers.
    """

    def __init__(self) -> None:
        self._members: list[Watcher] = []
        self._newcomers: list[Watcher] = []
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """How many get records now."""
        return len(self._members)

    def join(self, watcher: Watcher) -> None:
        """Give every record to `watcher`, from the next `welcome` on."""
        with self._lock:
            if watcher not in [*self._members, *self._newcomers]:
                self._newcomers.append(watcher)

    def leave(self, watcher: Watcher) -> None:
        """Stop giving records to `watcher`, which may call this itself."""
        with self._lock:
            for group in (self._members, self._newcomers):
                if watcher in group:
                    group.remove(watcher)

    def welcome(self, introduction: Callable[[], Iterable[Record]]) -> None:
        """Admit those who have joined since; give them the records of `introduction` first."""
        if not self._newcomers:
            return
        with self._lock:  # another thread's `leave` finds a newcomer in one of the lists at any time
            newcomers, self._newcomers = self._newcomers, []
            self._members += newcomers
        for watcher in newcomers:
            for record in introduction():
                self._give(record, watcher)

    def tell(self, record: Record) -> None:
        """Give a record to every watcher."""
        for watcher in tuple(self._members):  # a watcher that leaves meanwhile does not hide the next
            self._give(record, watcher)

    def _give(self, record: Record, watcher: Watcher) -> None:
        if watcher not in self._members:
            return
        try:
            watcher(record)
        except Exception as error:
            failure(_log, "a watcher of the scheduler failed and gets no more records", error)
            self.leave(watcher)
