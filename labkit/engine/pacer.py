"""The pace of one stream: when its next token may come."""

import math


class Pacer:
    """Tells when the next token is due: one interval after the last was due, but not before `ask`.

    So a stream keeps its rhythm although each token comes a little late, and a stream that lags goes on from
    now, without a burst. `due_s` takes the present interval: if it is shorter than before, the waiting token
    is due sooner. All times are seconds of one clock.

        pacer = Pacer(0.0)
        pacer.ask(0.1)
        pacer.due_s(500)    # 0.5
        pacer.emitted(0.5)  # the token has come
        pacer.ask(2.0)      # the engine was busy with something else
        pacer.due_s(500)    # 2.0

    Args:
        last_s: when the token before the first was due; without it the first is due at once.
    """

    def __init__(self, last_s: float = -math.inf) -> None:
        self._last_s = last_s
        self._ready_s = -math.inf

    def ask(self, now_s: float) -> None:
        """Note that the engine could hand the next token over from now on."""
        self._ready_s = now_s

    def due_s(self, interval_ms: float) -> float:
        """When the next token may come, at this interval."""
        return max(self._last_s + interval_ms / 1e3, self._ready_s)

    def emitted(self, due_s: float) -> None:
        """Note that the next token has come, which was due at `due_s`."""
        self._last_s = due_s
