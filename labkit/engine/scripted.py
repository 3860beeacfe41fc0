"""An engine without a model: fixed tokens at a fixed pace, for measuring the protocol alone."""

import time

from labkit.engine.tasked import TaskEngine, TaskStream
from labkit.errors import EngineFailed
from labkit.events import GenerateRequest

WORDS = "the quick brown fox jumps over the lazy dog while a small model counts its tokens"
SCRIPT = [f"{word} " for word in WORDS.split()]


class ScriptedEngine(TaskEngine):
    """Answers every prompt with the same words, on the reader's own loop and without torch.

    Args:
        tokens: how many tokens an answer has, if the request's `max_tokens` is not less.
        interval_ms: the time between two tokens, and before the first.
        fail_after: fail with `engine_failed` after so many tokens, to see how an interface reports it.
    """

    def __init__(self, tokens: int = 256, interval_ms: float = 5.0, fail_after: int | None = None) -> None:
        super().__init__("scripted", interval_ms)
        self.tokens = tokens
        self.fail_after = fail_after

    async def answer(self, request: GenerateRequest, stream: TaskStream) -> None:
        stream.started(self.name, len(request.prompt.split()))
        count = min(self.tokens, request.max_tokens)
        for index in range(count):
            await stream.ready()
            if index == self.fail_after:
                raise EngineFailed(f"scripted to fail after {index} tokens")
            stream.token(SCRIPT[index % len(SCRIPT)], time.monotonic_ns())
        stream.finish("stop" if count == self.tokens else "length")
