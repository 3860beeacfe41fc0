"""What a scheduler did, as records: made by the engine and the simulator, drawn, saved, replayed.

Times are seconds of the clock that ran it: `time.monotonic` in the engine, from 0 in the simulator.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Literal

import msgspec

State = Literal["waiting", "prefill", "decode", "paused", "evicted", "swapped", "finished", "dropped"]
"""Where a request is: `paused` keeps its KV and computes nothing, `evicted` has lost its KV and must
compute it again, `swapped` has it in a store outside; `dropped` was cancelled or failed."""


class Arrived(msgspec.Struct, tag="arrived", tag_field="type", frozen=True):
    """A request came; `request` numbers it in the records that follow."""

    at_s: float
    request: int
    name: str
    prompt_tokens: int
    max_tokens: int
    reader_tps: float


class Moved(msgspec.Struct, tag="moved", tag_field="type", frozen=True):
    """A request is in another state from now on."""

    at_s: float
    request: int
    state: State


class Iteration(msgspec.Struct, tag="iteration", tag_field="type", frozen=True):
    """One pass of the model over everybody who computes.

    `prefill` and `decodes` count tokens computed, `attended` the keys that all of them looked at (what
    attention costs), `swapped` the tokens whose KV was moved in or out since the one before. `kv_tokens` are
    held after it, `running` and `waiting` count requests with and without KV, `emitted` are those that got a
    token, at `end_s`. `cached` counts tokens of those who came in that the prefix cache had and that need not
    be computed.
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

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Record)


def save(records: Iterable[Record], path: Path) -> None:
    """Write records as JSON lines."""
    path.write_bytes(b"".join(_encoder.encode(record) + b"\n" for record in records))


def load(path: Path) -> Iterator[Record]:
    """Read what `save` wrote.

    Raises:
        ValueError: a line is no record; it says which.
    """
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            yield _decoder.decode(line)
        except msgspec.MsgspecError as error:
            raise ValueError(f"{path}, line {number}: {error}") from None
