"""A Hugging Face model behind the scheduler: in any company its texts are those of `generate`."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest
import tokenizers
import torch
from hf_models import CONTEXT, PROMPTS, byte_fallback, byte_level, fast, model_of, save, transformers
from support import connect, until

import labkit
from labkit.engine import create_engine, trace
from labkit.engine.hf import HFEngine, load_model
from labkit.engine.hf_runner import HFRunner
from labkit.engine.runner import SampledSequence
from labkit.engine.sampling import Sampler
from labkit.engine.text_stream import TokenStream
from labkit.engine.work import Work
from labkit.errors import InvalidRequest, StartError
from labkit.events import Event, Finished, GenerateRequest, Started, Token

PROMPT_IDS = (300, 301, 302, 303, 304)
KINDS: dict[str, tuple[Callable[[], tokenizers.Tokenizer], dict[str, Any]]] = {
    "llama": (byte_fallback, {}),
    "gpt2": (byte_level, {}),
    "mistral": (byte_fallback, {"sliding_window": 6}),
}


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and its tokenizer, as `save_pretrained` writes them."""
    make, changes = KINDS[request.param]
    tokenizer = fast(make())
    model = model_of(request.param, tokenizer)
    for name, value in changes.items():
        setattr(model.config, name, value)
    return save(tmp_path_factory.mktemp(request.param), model, tokenizer)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = fast(byte_fallback())
    return save(tmp_path_factory.mktemp("llama"), model_of("llama", tokenizer), tokenizer)


@contextmanager
def running(folder: Path, **options: Any) -> Iterator[HFEngine]:
    engine = HFEngine(str(folder), **options)
    try:
        yield engine
    finally:
        engine.close()


def ask(prompt: str, max_tokens: int = 20, **fields: Any) -> GenerateRequest:
    return GenerateRequest(prompt=prompt, max_tokens=max_tokens, **{"temperature": 0.0, **fields})


async def collect(stream: TokenStream) -> list[Event]:
    return [event async for event in stream]


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Token))


async def texts(engine: HFEngine, requests: list[GenerateRequest]) -> list[str]:
    """The answers of requests that all come at once."""
    streams = [engine.submit(request) for request in requests]
    return [text_of(events) for events in await asyncio.gather(*map(collect, streams))]


def generated(folder: Path, prompt: str, max_tokens: int) -> str:
    """What `generate` adds to a prompt, as the tokenizer decodes it."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    inputs = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
    ids = model.generate(**inputs, max_new_tokens=max_tokens, do_sample=False, pad_token_id=0)[0].tolist()
    start = tokenizer.decode(ids[: inputs.input_ids.shape[1]], skip_special_tokens=True)
    return str(tokenizer.decode(ids, skip_special_tokens=True)).removeprefix(start)


def runner_of(engine: HFEngine) -> HFRunner:
    assert isinstance(engine._core.runner, HFRunner)
    return engine._core.runner


async def test_a_greedy_text_is_that_of_generate(folder: Path) -> None:
    with running(folder) as engine:
        for prompt in PROMPTS:
            events = await collect(engine.submit(ask(prompt, 25)))
            assert isinstance(events[0], Started)
            assert [event.id for event in events] == list(range(27))
            assert text_of(events) == generated(folder, prompt, 25)
        assert len(set(await texts(engine, [ask(prompt, 25) for prompt in PROMPTS]))) == len(PROMPTS)


@pytest.mark.parametrize("policy", ["fcfs", "sarathi", "static", "prefill_first"])
async def test_chunks_and_company_change_no_text(folder: Path, policy: str) -> None:
    with running(folder, policy=policy, budget=5, seqs=3) as engine:
        together = await texts(engine, [ask(prompt) for prompt in PROMPTS])
    assert together == [generated(folder, prompt, 20) for prompt in PROMPTS]


async def test_a_seed_gives_the_same_text_in_company(llama: Path) -> None:
    requests = [ask(prompt, temperature=1.5, top_k=20, seed=7) for prompt in PROMPTS]
    with running(llama, budget=4) as engine:
        alone = [(await texts(engine, [request]))[0] for request in requests]
        other = await texts(engine, [request.model_copy(update={"seed": 8}) for request in requests])
        assert await texts(engine, requests) == alone
    assert all(one != another for one, another in zip(alone, other, strict=True))


@pytest.mark.parametrize(("preemption", "state"), [("recompute", "evicted"), ("swap", "swapped")])
async def test_an_eviction_frees_memory_and_changes_no_text(
    folder: Path, preemption: str, state: str
) -> None:
    options: dict[str, Any] = {"memory": "optimistic", "preemption": preemption, "kv_tokens": CONTEXT}
    records: list[trace.Record] = []
    lengths: list[int] = []
    with running(folder, seqs=4, **options) as engine:
        runner = runner_of(engine)

        def watch(record: trace.Record) -> None:
            records.append(record)
            if isinstance(record, trace.Iteration):
                lengths.append(sum(cache.get_seq_length() for cache in runner._caches.values()))

        engine.watch(watch)
        together = await texts(engine, [ask(prompt, 30) for prompt in PROMPTS])
        assert not runner._store
    assert any(isinstance(record, trace.Moved) and record.state == state for record in records)
    assert max(lengths) <= CONTEXT
    assert together == [generated(folder, prompt, 30) for prompt in PROMPTS]


def test_a_sequence_that_starts_again_gets_an_empty_cache(llama: Path) -> None:
    """As one that was evicted does, which may get its slot back in the same iteration."""
    sequence = SampledSequence("once", [5, 6, 7], max_tokens=9, arrival_s=0.0)
    sequence.sampler, sequence.slot = Sampler(temperature=0), 0
    runner = HFRunner(load_model(str(llama), "float32", CONTEXT)[0])
    first = runner.run([(sequence, 3)])
    assert runner.run([(sequence, 3)]) == first
    assert runner._caches[sequence].get_seq_length() == 3


def test_a_pass_that_raised_half_way_can_be_run_again(llama: Path) -> None:
    """The first sequence is computed, the second in one layer of two, and the third in none."""
    model, _ = load_model(str(llama), "float32", CONTEXT)
    last, calls = model.model.layers[1], 0

    def raises_once(*_: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise RuntimeError("once")

    def tokens_of(runner: HFRunner) -> list[list[int]]:
        sequences = [SampledSequence("", list(PROMPT_IDS[:size]), 9, 0.0) for size in (3, 5, 4)]
        for slot, sequence in enumerate(sequences):
            sequence.sampler, sequence.slot = Sampler(1.0, seed=slot), slot
        for _ in range(3):
            work: list[Work] = [(sequence, sequence.pending) for sequence in sequences]
            try:
                chosen = runner.run(work)
            except RuntimeError:
                chosen = [token for one in work for token in runner.run([one])]
            for sequence, token in zip(sequences, chosen, strict=True):
                sequence.computed = len(sequence.tokens)
                sequence.tokens.append(cast(int, token))
                assert runner._caches[sequence].get_seq_length() == sequence.computed
        return [sequence.tokens for sequence in sequences]

    expected = tokens_of(HFRunner(model))
    hook = last.register_forward_pre_hook(raises_once)
    assert tokens_of(HFRunner(model)) == expected
    hook.remove()
    assert calls > 9


async def test_a_beginning_that_is_cached_changes_no_text(folder: Path) -> None:
    beginning = "the number 16 + 16 is less than 34 or so "
    with running(folder, prefix_cache=128) as engine:
        assert 32 < len(engine.vocabulary.prompt(beginning)) < 48
        for end in ("nothing", "the end"):
            request = ask(beginning + end, 8)
            for _ in range(2):
                assert await texts(engine, [request]) == [generated(folder, beginning + end, 8)]
        assert engine._core.prefix is not None
        assert engine._core.prefix.hits >= 3 * 32  # all but the first find two blocks or more


async def test_a_sequence_that_leaves_or_ends_frees_its_cache(llama: Path) -> None:
    with running(llama, interval_ms=5) as engine:
        runner = runner_of(engine)
        stream = engine.submit(ask("Once", 40))
        for _ in range(4):
            await anext(stream)
        assert len(runner._caches) == 1
        await stream.aclose()
        await until(lambda: not runner._caches, "the cache is freed after the reader leaves")
        await collect(engine.submit(ask("Once", 4)))
        await until(lambda: not runner._caches, "the cache is freed after the end")


async def test_a_sequence_that_leaves_while_swapped_out_frees_its_copy(llama: Path) -> None:
    options: dict[str, Any] = {"memory": "optimistic", "preemption": "swap", "kv_tokens": CONTEXT}
    with running(llama, seqs=4, interval_ms=2, **options) as engine:
        runner = runner_of(engine)
        streams = [engine.submit(ask(prompt, 40)) for prompt in PROMPTS]
        await until(lambda: runner._store, "a sequence is swapped out")
        for stream in streams:
            await stream.aclose()
        await until(lambda: not runner._store and not runner._caches, "everything is freed")


async def test_the_context_is_the_limit(llama: Path) -> None:
    with running(llama, context=1000) as engine:
        assert engine.context == CONTEXT
    with running(llama, context=32) as engine:
        *_, last = await collect(engine.submit(ask("Once", 100)))
        prompt = len(engine.vocabulary.prompt("Once"))
        assert isinstance(last, Finished)
        assert (last.reason, last.pieces) == ("length", 33 - prompt)
        with pytest.raises(InvalidRequest, match="context is 32"):
            engine.submit(ask("the fox " * 30))


async def test_the_end_token_ends_a_text_unless_ignored(tmp_path: Path) -> None:
    tokenizer = fast(byte_fallback())
    model = model_of("llama", tokenizer)
    model.get_output_embeddings().weight.data[1] = 10 * model.get_output_embeddings().weight.data[300]
    with running(save(tmp_path, model, tokenizer)) as engine:
        events = await collect(engine.submit(ask("Once", 40)))
        longer = await collect(engine.submit(ask("Once", 40, ignore_eos=True)))
        stop = ask("Once", 40, ignore_eos=True, stop=["</s>"])
        stopped = await collect(engine.submit(stop))
    assert isinstance(events[-1], Finished)
    assert (events[-1].reason, len(longer)) == ("stop", 42)
    assert (stopped[-1], text_of(stopped)) == (events[-1], text_of(events))
    assert text_of(events) == generated(tmp_path, "Once", 40)
    assert 2 < len(events) < 42


async def test_each_of_several_end_tokens_ends_a_text(tmp_path: Path) -> None:
    tokenizer = fast(byte_fallback())
    model = model_of("llama", tokenizer)
    ends = tokenizer.convert_tokens_to_ids(["</s>", "▁fox", "▁w"])
    for end in ends[1:]:
        model.get_output_embeddings().weight.data[end] *= 2
    model.generation_config.eos_token_id = ends
    endings = set()
    with running(save(tmp_path, model, tokenizer)) as engine:
        for prompt in PROMPTS:
            events = await collect(engine.submit(ask(prompt, 40)))
            assert isinstance(events[-1], Finished)
            assert events[-1].reason == "stop"
            assert text_of(events) == generated(tmp_path, prompt, 40)
            endings.add(text_of(events)[-2:])
    assert endings == {"ox", " w"}


async def test_bfloat16_answers_too(llama: Path) -> None:
    with running(llama, dtype="bfloat16") as engine:
        assert runner_of(engine)._model.dtype == torch.bfloat16
        assert len(await collect(engine.submit(ask("Once", 5, temperature=1.0)))) == 7


async def test_a_server_streams_it(llama: Path) -> None:
    with labkit.serve("sse", f"hf:{llama},budget=4,threads=1") as server:
        async with connect("sse", server) as client:
            recording = await client.record(ask("Once upon a time", 20))
    started = recording.events[0]
    assert isinstance(started, Started)
    assert started.model == f"hf:{llama.name}"
    assert recording.text == generated(llama, "Once upon a time", 20)
    assert isinstance(recording.end, Finished)


@pytest.mark.parametrize("option", ["context=1", "kv_tokens=16", "seqs=0", "policy=none", "prefix_cache=-1"])
def test_an_option_out_of_range_is_named(llama: Path, option: str) -> None:
    with pytest.raises(StartError, match=option.partition("=")[0]):
        create_engine(f"hf:{llama},{option}")
