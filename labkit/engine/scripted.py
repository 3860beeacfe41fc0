"""An engine with no model: fixed tokens at a fixed pace, so that what is measured is the protocol."""

import time

from labkit.engine.relayed import RelayedEngine, RelayedStream
from labkit.errors import EngineFailed
from labkit.events import GenerateRequest

WORDS = "the quick brown fox jumps over the lazy dog while a small model counts its tokens"
SCRIPT = [f"{word} " for word in WORDS.split()]


class ScriptedEngine(RelayedEngine):
    """Answers every prompt with the same words, on the reader's own loop and without torch.

    Args:
        tokens: tokens in an answer; a request's `max_tokens` can only shorten it.
        interval_ms: time between two tokens, and before the first.
        fail_after: break with `engine_failed` after so many tokens, to see what an interface makes of it.
    """

    def __init__(self, tokens: int = 256, interval_ms: float = 5.0, fail_after: int | None = None) -> None:
        super().__init__("scripted", interval_ms)
        self.tokens = tokens
        self.fail_after = fail_after

    async def answer(self, request: GenerateRequest, stream: RelayedStream) -> None:
        stream.started(self.name, len(request.prompt.split()))
        count = min(self.tokens, request.max_tokens)
        for index in range(count):
            await stream.ready()
            if index == self.fail_after:
                raise EngineFailed(f"scripted to fail after {index} tokens")
            stream.token(SCRIPT[index % len(SCRIPT)], time.monotonic_ns())
        stream.finish("stop" if count == self.tokens else "length")
