"""An engine with a thread of its own that runs the core's iterations for many requests.

The thread computes and hands tokens over; it never waits for a server. PyTorch releases the interpreter's
lock within every operation, and the thread offers it once more after every step, so that the event loops
of the servers in the same process go on meanwhile (`labkit bench ruler` measures their lag).
"""

import logging
import math
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, Protocol

import torch
from pydantic import Field

from labkit.engine.base import checked, of_type
from labkit.engine.base import interval_ms as milliseconds
from labkit.engine.core import Core, Runner
from labkit.engine.detokenize import Detokenizer
from labkit.engine.policies import create_policy
from labkit.engine.runner import SampledSequence
from labkit.engine.sampling import Sampler
from labkit.engine.scheduler import Limits, Memory, Preemption, blocks
from labkit.engine.text_stream import TokenStream
from labkit.engine.trace import Watcher
from labkit.errors import EngineFailed, InvalidRequest
from labkit.events import GenerateRequest

SEQS = of_type("seqs", Annotated[int, Field(ge=1, le=1024)])
PREFIX_CACHE = of_type("prefix_cache", Annotated[int, Field(ge=0, le=1 << 20)])
THREADS = of_type("threads", Annotated[int, Field(ge=1, le=1024)])


_log = logging.getLogger(__name__)


class Vocabulary(Protocol):
    """What an engine needs of a model's tokenizer."""

    eos_ids: frozenset[int]
    """The tokens with which a text ends."""

    def prompt(self, text: str) -> list[int]:
        """The ids that the model is to go on from, at least one."""

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of one token."""


class StreamedSequence(SampledSequence):
    """One request and the stream that it writes to."""

    def __init__(self, request: GenerateRequest, tokens: list[int], engine: "BatchedEngine") -> None:
        # the last token is never computed, so one more than the context holds can be written
        most = min(request.max_tokens, engine.context - len(tokens) + 1)
        super().__init__(request.request_id or "", tokens, most, time.monotonic(), request.reader_tps)
        self.request = request
        self.engine = engine
        self.sampler = Sampler(request.temperature, request.top_k, request.top_p, request.seed)
        self.text = Detokenizer(engine.vocabulary, request.stop)
        self.stream = TokenStream(self.name, stamped=request.stamps, on_room=engine.look)
        self._since_s = -math.inf  # from when on the pace counts: the last token came then, or was due

    @property
    def due_s(self) -> float:
        """When the next token may come, at the pace of now."""
        return self._since_s + self.engine.interval_ms / 1e3

    def begin(self) -> None:
        self.stream.started(self.engine.name, self.prompt_tokens)

    def end(self, code: str, message: str) -> None:
        self.stream.fail(code, message)

    def push(self, token: int, now_s: float) -> None:
        """Hand one token over, and the end if it is the last; what goes wrong ends this sequence alone."""
        super().push(token, now_s)
        try:
            self._emit(token, int(now_s * 1e9))
        except Exception as error:
            self.stream.fail("engine_failed", f"{type(error).__name__}: {error}")
            self.finished = False  # nobody wants its stream now, so the engine drops it
        # One that lags behind its pace goes on from now and does not catch up in a burst.
        since_s = max(self.due_s, now_s - self.engine.interval_ms / 1e3)
        self._since_s = now_s if self.generated == 1 else min(since_s, now_s)

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
        threads: of torch, for this process.

    The others are described at `labkit.engine.local.LocalEngine`.

    Raises:
        InvalidRequest: an option is out of range.
    """

    def __init__(
        self,
        name: str,
        runner: Runner,
        vocabulary: Vocabulary,
        *,
        context: int,
        interval_ms: float,
        policy: str,
        budget: int,
        seqs: int,
        kv_tokens: int,
        memory: Memory,
        preemption: Preemption,
        prefix_cache: int,
        threads: int,
    ) -> None:
        self.name = name
        self.failed: str | None = None
        self.vocabulary = vocabulary
        self.context = context
        self.interval_ms = 0.0
        room = seqs * blocks(context)
        self._knobs = {
            "interval_ms": milliseconds,
            "policy": create_policy,
            "budget": of_type("budget", Annotated[int, Field(ge=0)]),
            "kv_tokens": of_type("kv_tokens", Annotated[int, Field(ge=blocks(context), le=room)]),
            "memory": of_type("memory", Memory),
            "preemption": of_type("preemption", Preemption),
        }
        self._turning = threading.Lock()
        self._changed = threading.Event()
        limits = Limits(kv_tokens or room, seqs)
        self._core = Core(runner, create_policy(policy), limits, time.monotonic, prefix_cache)
        self.tune(
            interval_ms=interval_ms,
            budget=budget,
            kv_tokens=limits.kv_tokens,
            memory=memory,
            preemption=preemption,
        )
        self._inbox: deque[StreamedSequence] = deque()
        self._joining: list[Watcher] = []
        self._watching = threading.Lock()
        self._thread = _start(self, self._changed, THREADS(threads))

    def submit(self, request: GenerateRequest) -> TokenStream:
        if self.failed is not None:
            raise EngineFailed(self.failed)
        prompt = self.vocabulary.prompt(request.prompt)
        if len(prompt) >= self.context:
            raise InvalidRequest(f"prompt: {len(prompt)} tokens; the model's context is {self.context}")
        sequence = StreamedSequence(request, prompt, self)
        self._inbox.append(sequence)
        self.look()
        if self.failed is not None:  # just now: the thread may have looked for the last time
            sequence.end("engine_failed", self.failed)
        return sequence.stream

    def tune(self, **knobs: Any) -> None:
        """Turn `interval_ms`, `policy`, `budget`, `kv_tokens`, `memory` or `preemption` while streams run."""
        values = checked(self, self._knobs, knobs)
        with self._turning:
            self.interval_ms = values.pop("interval_ms", self.interval_ms)
            self._core.policy = values.pop("policy", self._core.policy)
            self._core.limits = replace(self._core.limits, **values)
        self.look()

    @property
    def kv_limit(self) -> int:
        """How many tokens' keys and values can be held at once."""
        return self._core.limits.kv_tokens

    def watch(self, watcher: Watcher) -> Callable[[], None]:
        """Have every record of `labkit.engine.trace` from now on; returns what ends it.

        The watcher is called in the engine's thread and must return at once. One that raises is told no more,
        and what it raised is logged.
        """
        self._joining.append(watcher)
        self.look()
        return partial(self._unwatch, watcher)

    def _unwatch(self, watcher: Watcher) -> None:
        with self._watching, suppress(ValueError):
            self._joining.remove(watcher)
        self._core.unwatch(watcher)

    def close(self) -> None:
        self.failed = self.failed or "the engine is closed"
        self.look()
        self._thread.join(timeout=2.0)

    def look(self) -> None:
        """Have the thread look at once whether there is something to do."""
        self._changed.set()

    def work(self) -> float | None:
        """Iterate, in the thread, until there is nothing to do; returns for how long, None for ever."""
        while self.failed is None:
            try:
                if rest_s := self._iterate():
                    return rest_s
            except Exception as error:
                _log.exception("engine %s", self.name)
                self.failed = f"the engine stopped: {type(error).__name__}: {error}"
        self._let_go(self.failed)
        return None

    def _let_go(self, why: str) -> None:
        for sequence in [*self._sequences(), *self._inbox]:
            sequence.end("engine_failed", why)
        self._inbox.clear()
        self._core.close()

    def _iterate(self) -> float:
        """Run one iteration; returns how long there is nothing to do."""
        self._changed.clear()
        self._welcome()
        while self._inbox:
            self._core.add(self._inbox.popleft())
        next_s = self._look_after_streams(time.monotonic())
        plan = self._core.iterate()
        if plan.run:
            time.sleep(0)  # let the servers' loops have the interpreter
        if plan.run or plan.evict:
            return 0.0
        return min(next_s, math.inf if plan.rest_s is None else plan.rest_s)

    def _welcome(self) -> None:
        """Tell those who want to watch from now on who is here."""
        with self._watching:  # nobody is between the two lists when another thread looks for him
            new = [watcher for watcher in self._joining if watcher not in self._core.watchers]
            self._joining.clear()
            self._core.watchers += new
        for watcher in new:
            self._core.introduce(watcher)

    def _look_after_streams(self, now_s: float) -> float:
        """Drop who is not wanted, mark who may compute; returns how long until the next one is due."""
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
    """A thread that runs the engine, and ends with it also where nobody closes it but all forget it."""
    reference = weakref.ref(engine, lambda _: changed.set())

    def run() -> None:
        torch.set_num_threads(threads)
        while (engine := reference()) is not None and (rest_s := engine.work()) is not None:
            del engine  # whoever reads one of its streams holds it
            changed.wait(min(rest_s, threading.TIMEOUT_MAX))

    thread = threading.Thread(target=run, name="labkit-engine", daemon=True)
    thread.start()
    return thread
