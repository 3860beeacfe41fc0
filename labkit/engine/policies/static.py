"""Static (request-level) batching: a batch is formed once, and nobody joins until its last answer is done."""

from labkit.engine.scheduler import Filling, Plan, Situation, room_for
from labkit.engine.sequence import Sequence


class Static:
    """What serving was before Orca; short answers leave their seats empty while the longest goes on."""

    name = "static"

    def __init__(self) -> None:
        self._batch: list[Sequence] = []

    def plan(self, situation: Situation) -> Plan:
        alive = {*situation.running, *situation.waiting} if self._batch else set()
        self._batch = [sequence for sequence in self._batch if sequence in alive]
        if not self._batch:
            self._batch = list(situation.running) or _first_that_fit(situation)
        filling = Filling(situation)
        # one who was evicted holds up nobody who has KV
        going = sorted(self._batch, key=lambda sequence: sequence not in filling)
        filling.fill(going, victims=self._batch[::-1])
        return filling.plan


def _first_that_fit(situation: Situation) -> list[Sequence]:
    limits = situation.limits
    batch: list[Sequence] = []
    free = limits.kv_tokens
    for sequence in situation.waiting[: limits.seqs]:
        free -= room_for(sequence, len(sequence.tokens), limits)
        if free < 0:
            break
        batch.append(sequence)
    return batch
