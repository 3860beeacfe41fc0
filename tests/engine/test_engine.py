"""The engine around the model: what a stream gets, and when."""

import asyncio
import gc
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import pytest
from support import PATIENCE_S, until

from labkit.engine import create_engine
from labkit.engine.local import LocalEngine
from labkit.engine.options import Scheduling
from labkit.engine.text_stream import TokenStream
from labkit.engine.trace import Moved, Record
from labkit.errors import EngineFailed, InvalidRequest, StartError
from labkit.events import Event, Failed, Finished, GenerateRequest, Started, Token
from labkit.service.service import Service
from labkit.stream import HIGH_WATER


@pytest.fixture(scope="module")
def engine() -> "LocalEngine":
    return LocalEngine()


async def collect(stream: TokenStream) -> list[Event]:
    return [event async for event in stream]


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Token))


async def test_a_stream_has_one_token_a_step_and_ends_once(engine: LocalEngine) -> None:
    events = await collect(
        engine.submit(GenerateRequest(prompt="Once upon a time", max_tokens=20, ignore_eos=True))
    )
    assert [event.id for event in events] == list(range(22))
    assert isinstance(events[0], Started)
    assert events[-1] == Finished(21, "length", 20)


async def test_a_seed_repeats_a_text_and_another_seed_changes_it(engine: LocalEngine) -> None:
    request = GenerateRequest(prompt="Once upon a time", max_tokens=40, seed=5)
    first, again = (
        text_of(await collect(engine.submit(request))),
        text_of(await collect(engine.submit(request))),
    )
    other = text_of(await collect(engine.submit(request.model_copy(update={"seed": 6}))))
    assert first == again != other


async def test_a_text_does_not_depend_on_its_neighbours(engine: LocalEngine) -> None:
    request = GenerateRequest(prompt="One morning, Mia", max_tokens=30, seed=1)
    alone = text_of(await collect(engine.submit(request)))
    company = [engine.submit(GenerateRequest(prompt="Long ago", max_tokens=30, seed=n)) for n in range(4)]
    beside, *_ = await asyncio.gather(collect(engine.submit(request)), *map(collect, company))
    assert text_of(beside) == alone


async def test_a_stop_string_ends_the_text_before_it(engine: LocalEngine) -> None:
    request = GenerateRequest(prompt="Once upon a time", max_tokens=60, seed=5, ignore_eos=True)
    whole = text_of(await collect(engine.submit(request)))
    stop = whole[20:24]
    events = await collect(engine.submit(request.model_copy(update={"stop": [stop]})))
    assert text_of(events) == whole[: whole.index(stop)]
    assert isinstance(events[-1], Finished)
    assert events[-1].reason == "stop"


async def test_the_end_of_the_text_ends_the_stream_unless_ignored(engine: LocalEngine) -> None:
    request = GenerateRequest(prompt="Once upon a time", max_tokens=400, temperature=0.5)
    events = await collect(engine.submit(request))
    assert isinstance(events[-1], Finished)
    assert events[-1].reason == "stop"
    longer = await collect(engine.submit(request.model_copy(update={"ignore_eos": True})))
    assert len(longer) == 402
    spelt = request.model_copy(update={"ignore_eos": True, "stop": ["<|end|>"]})
    stopped = await collect(engine.submit(spelt))
    assert (stopped[-1], text_of(stopped)) == (events[-1], text_of(events))


async def test_the_context_is_the_limit(engine: LocalEngine) -> None:
    context = engine.context
    request = GenerateRequest(prompt="Once", max_tokens=context, ignore_eos=True)
    *_, last = await collect(engine.submit(request))
    assert isinstance(last, Finished)
    assert last.reason == "length"
    # the last token is written but never read
    assert last.pieces == context - len(engine.vocabulary.prompt("Once")) + 1
    with pytest.raises(InvalidRequest, match=f"context is {context}"):
        engine.submit(GenerateRequest(prompt="word " * context))


async def test_a_reader_who_does_not_read_stops_the_model(engine: LocalEngine) -> None:
    stream = engine.submit(GenerateRequest(prompt="Once", max_tokens=300, ignore_eos=True))
    while stream.produced < HIGH_WATER - 1:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.2)
    assert stream.produced <= HIGH_WATER
    events = await collect(stream)
    assert [event.id for event in events] == list(range(302))


async def test_closing_a_stream_stops_its_work_within_a_step(engine: LocalEngine) -> None:
    stream = engine.submit(GenerateRequest(prompt="Once", max_tokens=500, ignore_eos=True))
    for _ in range(6):
        await anext(stream)
    await stream.aclose()
    produced = stream.produced
    await asyncio.sleep(0.2)
    assert stream.produced <= produced + 1
    assert engine._core.running == []
    assert engine._core.kv_tokens == 0


async def test_an_error_in_one_sequence_leaves_the_others_alone(engine: LocalEngine) -> None:
    records: list[Record] = []
    unwatch = engine.watch(records.append)
    broken = engine.submit(GenerateRequest(prompt="Once", max_tokens=30, ignore_eos=True))
    sound = engine.submit(GenerateRequest(prompt="Once", max_tokens=30, ignore_eos=True))
    sequence = next(s for s in [*engine._inbox, *engine._sequences()] if s.stream is broken)
    sequence.text = None  # type: ignore[assignment]
    broken_events, sound_events = await asyncio.gather(collect(broken), collect(sound))
    assert isinstance(broken_events[-1], Failed)
    assert broken_events[-1].code == "engine_failed"
    assert isinstance(sound_events[-1], Finished)
    await until(lambda: not engine._sequences(), "both are gone")
    unwatch()
    ends = {r.request: r.state for r in records if isinstance(r, Moved)}
    assert sorted(ends.values()) == ["dropped", "finished"]


async def test_the_pace_holds_the_model_back() -> None:
    engine = LocalEngine(interval_ms=20)
    begin = time.monotonic()
    await collect(engine.submit(GenerateRequest(prompt="Once", max_tokens=11, ignore_eos=True)))
    assert time.monotonic() - begin >= 0.2
    engine.close()


async def test_a_slow_pace_can_be_undone() -> None:
    engine = LocalEngine(interval_ms=3_600_000)
    stream = engine.submit(GenerateRequest(prompt="Once", max_tokens=5, ignore_eos=True))
    await until(lambda: stream.produced == 1, "the first token comes")
    engine.tune(interval_ms=0)
    *_, last = await asyncio.wait_for(collect(stream), PATIENCE_S)
    assert isinstance(last, Finished)
    engine.close()


async def test_turning_a_knob_wakes_the_engine() -> None:
    engine = LocalEngine(policy="static", seqs=2)
    stalled = engine.submit(GenerateRequest(prompt="Once", max_tokens=300, ignore_eos=True))
    await until(lambda: stalled.produced >= HIGH_WATER - 1, "its reader has stalled")
    other = engine.submit(GenerateRequest(prompt="Once", max_tokens=5, ignore_eos=True))
    await until(lambda: not engine._changed.is_set() and not engine._inbox, "the engine rests")
    engine.tune(policy="fcfs")
    *_, last = await asyncio.wait_for(collect(other), PATIENCE_S)
    assert isinstance(last, Finished)
    engine.close()


def test_threads_that_tune_at_once_do_not_undo_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    within = Scheduling.within

    def slow(scheduling: Scheduling, context: int) -> Scheduling:
        time.sleep(0.05)
        return within(scheduling, context)

    engine = LocalEngine()
    monkeypatch.setattr(Scheduling, "within", slow)
    knobs: list[dict[str, Any]] = [{"budget": 7}, {"memory": "optimistic"}, {"preemption": "swap"}]
    threads = [threading.Thread(target=engine.tune, kwargs=each) for each in knobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    limits = engine._core.limits
    assert (limits.budget, limits.memory, limits.preemption) == (7, "optimistic", "swap")
    engine.close()


async def test_closing_the_engine_ends_its_streams_and_its_thread_and_frees_its_memory() -> None:
    engine = LocalEngine(interval_ms=50)
    runner = weakref.ref(engine._core.runner)
    stream = engine.submit(GenerateRequest(prompt="Once", max_tokens=500))
    await anext(stream)
    await asyncio.to_thread(engine.close)
    *_, last = await collect(stream)
    assert isinstance(last, Failed)
    assert engine._thread not in threading.enumerate()
    assert (engine._core.running, engine._core.waiting, runner()) == ([], [], None)
    with pytest.raises(EngineFailed):
        engine.submit(GenerateRequest(prompt="Once"))


async def test_an_engine_without_an_owner_answers_its_readers_and_ends() -> None:
    engine = LocalEngine(interval_ms=1)
    thread, stream = (
        engine._thread,
        engine.submit(GenerateRequest(prompt="Once", max_tokens=5, ignore_eos=True)),
    )
    del engine
    gc.collect()
    assert len(await collect(stream)) == 7
    del stream
    await until(lambda: gc.collect() >= 0 and not thread.is_alive(), "its thread ends")


async def test_a_policy_that_breaks_ends_every_stream_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = LocalEngine()
    stream = engine.submit(GenerateRequest(prompt="Once", max_tokens=500))
    await anext(stream)
    monkeypatch.setattr(engine._core.policy, "plan", lambda *_: 1 / 0, raising=False)
    *_, last = await collect(stream)
    assert isinstance(last, Failed)
    assert "ZeroDivisionError" in last.message
    with pytest.raises(EngineFailed, match="ZeroDivisionError"):
        engine.submit(GenerateRequest(prompt="Once"))
    health = Service(engine).health()
    assert (health["status"], health["reason"]) == ("failed", last.message)


async def test_a_dropped_sequence_gives_its_reader_the_reason() -> None:
    engine = LocalEngine(interval_ms=50)
    stream = engine.submit(GenerateRequest(prompt="Once", max_tokens=500))
    await anext(stream)
    (sequence,) = engine._sequences()
    sequence.end("overloaded", "it waited too long")
    *_, last = await collect(stream)
    assert isinstance(last, Failed) and (last.code, last.message) == ("overloaded", "it waited too long")
    engine.close()


@pytest.mark.parametrize("knobs", [{"speed": 1}, {"interval_ms": float("inf")}, {"interval_ms": "soon"}])
def test_a_wrong_knob_is_refused_and_no_knob_turns(engine: LocalEngine, knobs: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest):
        engine.tune(**knobs)
    assert engine.interval_ms == 0


def test_missing_weights_say_how_to_make_them(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"python -m labkit\.models\.train"):
        LocalEngine(weights=tmp_path)


@pytest.mark.parametrize("text", ["huge", "tiny:size=3", "scripted:tokens=many"])
def test_a_wrong_engine_is_refused_with_the_right_ones(text: str) -> None:
    with pytest.raises(StartError, match=r"there are|valid integer"):
        create_engine(text)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("policy=nope", "static, fcfs"),
        ("budget=-1", "greater than or equal to 0"),
        ("kv_tokens=10", "1024 .one context. to 65536 "),
        ("seqs=2,kv_tokens=4096", "1024 .one context. to 2048 "),
        ("seqs=0", "greater than or equal to 1"),
        ("memory=none", "'reserve' or 'optimistic'"),
        ("preemption=never", "'recompute' or 'swap'"),
        ("prefix_cache=-1", "greater than or equal to 0"),
        ("threads=0", "greater than or equal to 1"),
        ("dtype=float16", "'float32' or 'bfloat16'"),
        ("batch_invariant=maybe", "valid boolean"),
        ("dtype=bfloat16,int8=true", "dtype=float32"),
    ],
)
def test_an_option_out_of_range_is_refused(option: str, message: str) -> None:
    name = option.rpartition(",")[2].partition("=")[0]
    with pytest.raises(StartError, match=rf"{name}.*{message}"):
        create_engine(f"tiny:{option}")


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(StartError, match="use device=cpu"):
        create_engine("tiny:device=cuda")


@pytest.mark.parametrize("knobs", [{"kv_tokens": 10}, {"policy": "nope"}, {"budget": -1}, {"seqs": 3}])
def test_a_knob_out_of_range_is_refused_and_no_knob_turns(engine: LocalEngine, knobs: dict[str, Any]) -> None:
    before = engine._core.limits
    with pytest.raises(InvalidRequest):
        engine.tune(memory="optimistic", **knobs)
    assert engine._core.limits == before
    assert engine._core.policy.name == "sarathi"


def test_batch_invariant_is_refused_where_bits_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("labkit.models.invariance.depends_on_company", lambda model, rows: "a neighbour")
    with pytest.raises(StartError) as error:
        LocalEngine(batch_invariant=True)
    assert str(error.value).startswith("batch_invariant: ") and "a neighbour changes bits" in str(error.value)
    assert "\n" not in str(error.value)
    LocalEngine().close()
