"""Static (request-level) batching: no request joins a batch until the last of its answers ends."""

from labkit.engine.scheduler import Filling, Plan, Situation, room_for
from labkit.engine.sequence import Sequence


class Static:
    """Batches as servers did before Orca: seats of short answers stay empty until the longest answer ends."""

    name = "static"

    def __init__(self) -> None:
        self._batch: list[Sequence] = []

    def plan(self, situation: Situation) -> Plan:
        alive = {*situation.running, *situation.waiting} if self._batch else set()
        self._batch = [sequence for sequence in self._batch if sequence in alive]
        if not self._batch:
            self._batch = list(situation.running) or _first_that_fit(situation)
        filling = Filling(situation)
        # a sequence that was evicted does not hold up those that have KV
        batch = sorted(self._batch, key=lambda sequence: sequence not in filling)
        filling.fill(batch, victims=self._batch[::-1])
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
