"""The engine around the shipped model: one thread, one loop of iterations, many requests.

The thread computes and hands tokens over; it never waits for a server. PyTorch releases the interpreter's
lock within every operation, and the thread offers it once more after every step, so that the event loops
of the servers in the same process go on meanwhile (`labkit bench ruler` measures their lag).
"""

import threading
import time
from collections import deque
from pathlib import Path
from typing import Any

import torch

from labkit.engine.base import interval_ms as milliseconds
from labkit.engine.base import turn
from labkit.engine.detokenize import Detokenizer
from labkit.engine.sampling import Sampler
from labkit.engine.scheduler import plan
from labkit.errors import EngineFailed, InvalidRequest, StartError
from labkit.events import GenerateRequest
from labkit.models.text import DEFAULT_WEIGHTS, KVCache, TextModel
from labkit.models.tokenizer import Tokenizer
from labkit.stream import TokenStream


class Sequence:
    """One request on its way through the model: tokens, cache, sampler, and the stream it writes to."""

    def __init__(self, request: GenerateRequest, prompt: list[int], tokenizer: Tokenizer) -> None:
        self.request = request
        self.prompt = prompt
        self.stream: TokenStream
        self.cache: KVCache | None = None  # from its prefill on
        self.due_s = 0.0
        self.last = 0
        self.sampler = Sampler(request.temperature, request.top_k, request.top_p, request.seed)
        self.text = Detokenizer(tokenizer, request.stop)

    @property
    def prefilled(self) -> bool:
        return self.cache is not None

    @property
    def wanted(self) -> bool:
        return self.stream.wanted

    @property
    def writable(self) -> bool:
        return self.stream.writable


class LocalEngine:
    """Answers with the small language model in `labkit/models`, on the CPU, one torch thread.

    Args:
        interval_ms: the pace, the least time between two tokens of one stream; 0 is as fast as it can.
        weights: the folder of the weights and the tokenizer.

    Raises:
        StartError: the weights are missing.
    """

    def __init__(self, interval_ms: float = 0.0, weights: Path = DEFAULT_WEIGHTS) -> None:
        self.name = "tiny"
        self.interval_ms = milliseconds(interval_ms)
        try:
            self.model = TextModel.load(weights)
            self.tokenizer = Tokenizer.load(weights / "tokenizer.json")
        except FileNotFoundError as error:
            raise StartError(str(error)) from None
        self._arrived: deque[Sequence] = deque()
        self._running: list[Sequence] = []
        self._closed = False
        self._changed = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="labkit-engine", daemon=True)
        self._thread.start()

    def submit(self, request: GenerateRequest) -> TokenStream:
        if self._closed:
            raise EngineFailed("the engine is closed")
        context = self.model.config.context
        # The text begins where another has ended: that is how the model learnt what a beginning is.
        prompt = [self.tokenizer.eos_id, *self.tokenizer.encode(request.prompt)]
        if len(prompt) >= context:
            raise InvalidRequest(f"prompt: {len(prompt)} tokens; the model's context is {context}")
        sequence = Sequence(request, prompt, self.tokenizer)
        sequence.stream = TokenStream(
            request.request_id or "", stamped=request.stamps, on_room=self._changed.set
        )
        self._arrived.append(sequence)
        self._changed.set()
        if self._closed:  # just now: the thread may have looked for the last time
            sequence.stream.fail("engine_failed", "the engine was closed")
        return sequence.stream

    def tune(self, **knobs: Any) -> None:
        turn(self, {"interval_ms": milliseconds}, knobs)

    def close(self) -> None:
        self._closed = True
        self._changed.set()
        self._thread.join(timeout=2.0)

    def _loop(self) -> None:
        torch.set_num_threads(1)
        why = "the engine was closed"
        try:
            while not self._closed:
                self._iterate()
        except Exception as error:
            why = f"the engine stopped: {type(error).__name__}: {error}"
            raise
        finally:
            self._closed = True
            for sequence in [*self._running, *self._arrived]:
                sequence.stream.fail("engine_failed", why)

    def _iterate(self) -> None:
        self._changed.clear()
        while self._arrived:
            self._running.append(self._arrived.popleft())
        now = time.monotonic()
        step = plan(self._running, now)
        for place in step.run:
            self._advance(self._running[place], now)
        for place in reversed(step.drop):
            del self._running[place]
        if step.run:
            time.sleep(0)  # let the servers' loops have the interpreter
        elif not step.drop:
            self._changed.wait(step.rest_s)

    def _advance(self, sequence: Sequence, now: float) -> None:
        """Compute one token; what goes wrong ends this sequence and no other."""
        try:
            self._step(sequence)
        except Exception as error:
            sequence.stream.fail("engine_failed", f"{type(error).__name__}: {error}")
        # One that lags behind its pace goes on from now and does not catch up in a burst.
        sequence.due_s = max(sequence.due_s + self.interval_ms / 1e3, now)

    def _step(self, sequence: Sequence) -> None:
        tokens = [sequence.last]
        if sequence.cache is None:
            sequence.stream.started(self.name, len(sequence.prompt))
            tokens = sequence.prompt
            sequence.cache = self.model.new_cache()
            sequence.due_s = time.monotonic()
        logits = self.model(torch.tensor(tokens), sequence.cache)
        sequence.last = sequence.sampler.sample(logits)
        self._emit(sequence, sequence.cache, time.monotonic_ns())

    def _emit(self, sequence: Sequence, cache: KVCache, sampled_ns: int) -> None:
        """Hand one token over, and the end if it is the last."""
        request, stream = sequence.request, sequence.stream
        ended = sequence.last == self.tokenizer.eos_id and not request.ignore_eos
        text = sequence.text.push(sequence.last)
        full = stream.produced + 1 >= request.max_tokens or cache.room == 0
        if (ended or full) and not sequence.text.stopped:
            text += sequence.text.flush()
        stream.token(text, sampled_ns)
        if ended or sequence.text.stopped:
            stream.finish("stop")
        elif full:
            stream.finish("length")
