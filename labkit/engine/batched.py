"""An engine that answers many requests: a thread of its own runs the core's iterations.

The thread computes and hands tokens over; it never waits for a server. PyTorch releases the interpreter's
lock within every operation, and the thread releases it once more after every step. So the event loops of the
servers in the same process go on meanwhile (`labkit bench ruler` measures their lag).
"""

import logging
import math
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, Protocol

import torch

from labkit.engine.core import Core
from labkit.engine.detokenize import Detokenizer, TokenBytes
from labkit.engine.options import Options, Scheduling
from labkit.engine.pacer import Pacer
from labkit.engine.policies import create_policy
from labkit.engine.runner import SampledSequence
from labkit.engine.sampling import Sampler
from labkit.engine.text_stream import TokenStream
from labkit.engine.trace import Watcher
from labkit.engine.work import Runner
from labkit.errors import EngineFailed, InvalidRequest, in_one_line
from labkit.events import GenerateRequest

_log = logging.getLogger(__name__)


class Vocabulary(TokenBytes, Protocol):
    """What an engine needs of a model's tokenizer."""

    eos_ids: frozenset[int]
    """The tokens that end a text."""

    def prompt(self, text: str) -> list[int]:
        """Return the ids of a prompt, at least one; the model continues them."""


class StreamedSequence(SampledSequence):
    """One request, and the stream that its answer goes to."""

    def __init__(self, request: GenerateRequest, tokens: list[int], engine: "BatchedEngine") -> None:
        # the last token is not computed, so the text can be one token longer than the context
        most = min(request.max_tokens, engine.context - len(tokens) + 1)
        super().__init__(request.request_id or "", tokens, most, time.monotonic(), request.reader_tps)
        self.request = request
        self.engine = engine
        self.sampler = Sampler(request.temperature, request.top_k, request.top_p, request.seed)
        self.text = Detokenizer(engine.vocabulary, request.stop, tokens)
        self.stream = TokenStream(self.name, stamped=request.stamps, on_room=engine.look)
        self._pacer = Pacer()

    @property
    def due_s(self) -> float:
        """When the next token may come, at the engine's present pace."""
        return self._pacer.due_s(self.engine.interval_ms)

    def begin(self) -> None:
        self.stream.started(self.engine.name, self.prompt_tokens)

    def end(self, code: str, message: str) -> None:
        self.stream.fail(code, message)

    def push(self, token: int, now_s: float) -> None:
        """Hand a token over, and the end if it is the last. An error here ends this sequence alone."""
        super().push(token, now_s)
        try:
            self._emit(token, int(now_s * 1e9))
        except BaseException as error:  # a panic in the Rust of a tokenizer is no Exception
            self.stream.fail("engine_failed", in_one_line(error))
            self.finished = False  # the engine drops it, since its stream has ended
        # a token comes before it is due if the pace became slower while it was computed
        self._pacer.emitted(now_s if self.generated == 1 else min(self.due_s, now_s))
        self._pacer.ask(now_s)

    def _emit(self, token: int, sampled_ns: int) -> None:
        ended = token in self.engine.vocabulary.eos_ids and not self.request.ignore_eos
        text = self.text.push(token)
        if (ended or self.finished) and not self.text.stopped:
            text += self.text.flush()
        self.stream.token(text, sampled_ns)
        if ended or self.text.stopped:
            self.stream.finish("stop")
            self.finished = True
        elif self.finished:
            self.stream.finish("length")


class BatchedEngine:
    """Requests in, streams out, and between them a core that runs in a thread.

    Args:
        context: the most tokens that a sequence can hold.
        scheduling: the options, whose knobs `tune` turns.

    Raises:
        InvalidRequest: there is no such policy, or `kv_tokens` is out of range.
    """

    keywords: ClassVar[type[Options]] = Scheduling
    """The constructors of engines take these options as keywords, besides their own parameters."""

    def __init__(
        self, name: str, runner: Runner, vocabulary: Vocabulary, context: int, scheduling: Scheduling
    ) -> None:
        self.name = name
        self.failed: str | None = None
        self.vocabulary = vocabulary
        self.context = context
        self.scheduling = scheduling.within(context)
        policy = create_policy(scheduling.policy)
        self._core = Core(runner, policy, self.scheduling, time.monotonic, scheduling.prefix_cache)
        self._tuning = threading.Lock()
        self._changed = threading.Event()
        self._inbox: deque[StreamedSequence] = deque()
        self._thread = _start(self, self._changed, scheduling.threads)

    def submit(self, request: GenerateRequest) -> TokenStream:
        if self.failed is not None:
            raise EngineFailed(self.failed)
        prompt = self.vocabulary.prompt(request.prompt)
        if len(prompt) >= self.context:
            raise InvalidRequest(f"prompt: {len(prompt)} tokens; the model's context is {self.context}")
        sequence = StreamedSequence(request, prompt, self)
        self._inbox.append(sequence)
        self.look()
        if self.failed is not None:  # it failed just now, and its thread may not see this sequence
            sequence.end("engine_failed", self.failed)
        return sequence.stream

    def tune(self, **knobs: Any) -> None:
        """Turn knobs while streams run: all fields of `Scheduling` but those that are `fixed`."""
        with self._tuning:
            scheduling = self.scheduling.turned(self.name, knobs).within(self.context)
            if "policy" in knobs:
                self._core.policy = create_policy(scheduling.policy)
            self.scheduling = self._core.limits = scheduling
        self.look()

    @property
    def interval_ms(self) -> float:
        return self.scheduling.interval_ms

    @property
    def kv_limit(self) -> int:
        """The most tokens whose keys and values are held at once."""
        return self._core.limits.kv_tokens

    def watch(self, watcher: Watcher) -> Callable[[], None]:
        """Give every record of `labkit.engine.trace` to `watcher`; return a function that ends this.

        The engine's thread calls the watcher, which must return at once. One that raises gets no more
        records, and the error is logged.
        """
        self._core.watchers.join(watcher)
        self.look()
        return partial(self._core.watchers.leave, watcher)

    def close(self) -> None:
        self.failed = self.failed or "the engine is closed"
        self.look()
        self._thread.join(timeout=2.0)

    def look(self) -> None:
        """Wake the thread, so that it looks at once whether there is work."""
        self._changed.set()

    def work(self) -> float | None:
        """Iterate until there is no work; return the seconds until the next, None if the engine has ended."""
        while self.failed is None:
            try:
                if rest_s := self._iterate():
                    return rest_s
            except BaseException as error:  # whatever it is, nobody may wait for a thread that has ended
                self.failed = f"the engine stopped: {in_one_line(error)}"
                _log.error("engine %s: %s", self.name, self.failed)
                _log.debug("engine %s", self.name, exc_info=True)
        self._end(self.failed)
        return None

    def _end(self, reason: str) -> None:
        for sequence in [*self._sequences(), *self._inbox]:
            sequence.end("engine_failed", reason)
        self._inbox.clear()
        self._core.close()

    def _iterate(self) -> float:
        """Run one iteration; return the seconds until there is work for the next."""
        self._changed.clear()
        self._core.welcome()
        while self._inbox:
            self._core.add(self._inbox.popleft())
        next_s = self._look_after_streams(time.monotonic())
        plan = self._core.iterate()
        if plan.run:
            time.sleep(0)  # the servers' loops get the interpreter
        if plan.run or plan.evict:
            return 0.0
        return min(next_s, math.inf if plan.rest_s is None else plan.rest_s)

    def _look_after_streams(self, now_s: float) -> float:
        """Drop unwanted sequences, mark those that may compute; return the seconds until the next is due."""
        next_s = math.inf
        for sequence in self._sequences():
            stream = sequence.stream
            if not stream.wanted:
                self._core.drop(sequence)
                continue
            sequence.stalled = not stream.writable
            sequence.ready = not sequence.stalled and sequence.due_s <= now_s
            if not sequence.ready and not sequence.stalled:
                next_s = min(next_s, max(0.0, sequence.due_s - now_s))
        return next_s

    def _sequences(self) -> list[StreamedSequence]:
        return [s for s in (*self._core.running, *self._core.waiting) if isinstance(s, StreamedSequence)]


def _start(engine: BatchedEngine, changed: threading.Event, threads: int) -> threading.Thread:
    """Start a thread that runs the engine, and ends when the engine is closed or garbage-collected."""
    reference = weakref.ref(engine, lambda _: changed.set())

    def run() -> None:
        torch.set_num_threads(threads)
        while (engine := reference()) is not None and (rest_s := engine.work()) is not None:
            del engine  # only its owner and the readers of its streams keep it alive
            changed.wait(min(rest_s, threading.TIMEOUT_MAX))

    thread = threading.Thread(target=run, name="labkit-engine", daemon=True)
    thread.start()
    return thread
