"""The engine around the model with many requests: no text depends on company, memory or knobs."""

import asyncio
from collections.abc import Iterator
from contextlib import closing
from itertools import cycle
from random import Random
from typing import Any

import pytest
import torch
from support import PATIENCE_S, until
from torch import Tensor

from labkit.engine.local import LocalEngine
from labkit.engine.policies import POLICIES
from labkit.engine.sampling import Sampler, sample
from labkit.engine.text_stream import TokenStream
from labkit.engine.trace import Arrived, Iteration, Moved, Record
from labkit.errors import InvalidRequest
from labkit.events import Event, Finished, GenerateRequest, Started, Token
from labkit.models import stories
from labkit.models.tokenizer import Tokenizer
from labkit.stream import HIGH_WATER
from labkit.wire import native, protobuf
from labkit.wire.proto import inference_pb2 as pb

STORY = "Once upon a time, a cheerful girl named Ivy lived near the bakery. She had a small golden flute. "
PROMPTS = ("Once upon a time", "Leo was a", "One morning, Mia heard a noise.", STORY, 3 * STORY, 9 * STORY)
ANSWERS = (260, 3, 200, 240, 1, 150, 220)


def request_of(number: int, **more: Any) -> GenerateRequest:
    """One of many different requests; every other one is greedy."""
    fields = {"prompt": PROMPTS[number % len(PROMPTS)], "max_tokens": ANSWERS[number % len(ANSWERS)]}
    chance = {"temperature": 0.9 * (number % 2), "top_k": 40 * (number % 3), "seed": number}
    return GenerateRequest(**{**fields, **chance, "ignore_eos": True, **more})


REQUESTS = [request_of(number) for number in range(12)]


async def collect(stream: TokenStream) -> list[Event]:
    return [event async for event in stream]


def whole(events: list[Event]) -> str:
    """The text of a stream, which is complete and in order."""
    started, *tokens, finished = events
    assert isinstance(started, Started) and isinstance(finished, Finished)
    assert [event.id for event in events] == list(range(len(events)))
    assert finished.pieces == len(tokens)
    return "".join(token.text for token in tokens if isinstance(token, Token))


async def answers(engine: LocalEngine, requests: list[GenerateRequest]) -> list[str]:
    """The answers to requests that begin at once."""
    events = await asyncio.gather(*(collect(engine.submit(request)) for request in requests))
    return [whole(each) for each in events]


class WatchedEngine:
    """An engine and its records."""

    def __init__(self, **options: Any) -> None:
        self.engine = LocalEngine(**options)
        self.records: list[Record] = []
        self.engine.watch(self.records.append)

    def __enter__(self) -> "WatchedEngine":
        return self

    def __exit__(self, *_: object) -> None:
        self.engine.close()

    def iterations(self) -> list[Iteration]:
        return [record for record in self.records if isinstance(record, Iteration)]

    def states(self) -> list[str]:
        return [record.state for record in self.records if isinstance(record, Moved)]

    def settled(self) -> bool:
        """Whether the engine has no request and holds no memory."""
        core = self.engine._core
        return not (core.running or core.waiting) and core.kv_tokens == 0


@pytest.fixture(scope="module")
def engine() -> Iterator[LocalEngine]:
    with closing(LocalEngine()) as engine:
        yield engine


@pytest.fixture(scope="module")
def alone(bits_kept: None) -> list[str]:
    """The answer to each request where it is the only one."""

    async def one_by_one() -> list[str]:
        with closing(LocalEngine(**EXACT)) as engine:
            return [text for request in REQUESTS for text in await answers(engine, [request])]

    return asyncio.run(one_by_one())


EXACT: dict[str, Any] = {"batch_invariant": True}
TIGHT = {"kv_tokens": 1024, "memory": "optimistic"}


@pytest.mark.parametrize(
    "options",
    [
        {"policy": "static"},
        {"policy": "fcfs", "budget": 50},
        {"policy": "prefill_first", "seqs": 5},
        {"policy": "sarathi", "budget": 17},
        {"policy": "andes", "seqs": 4, "preemption": "swap"},
        {"policy": "tokenflow", "seqs": 4},
        {"policy": "fcfs", **TIGHT},
        {"policy": "sarathi", **TIGHT, "preemption": "swap"},
        {"policy": "sarathi", **TIGHT, "budget": 33, "prefix_cache": 4096},
        {"policy": "static", **TIGHT, "prefix_cache": 256, "preemption": "swap"},
    ],
    ids=lambda options: " ".join(map(str, options.values())),
)
async def test_a_text_does_not_depend_on_company_policy_or_memory(
    alone: list[str], options: dict[str, Any]
) -> None:
    order = Random(str(options)).sample(range(len(REQUESTS)), len(REQUESTS))
    with WatchedEngine(**EXACT, **options) as watched:
        texts = await answers(watched.engine, [REQUESTS[number] for number in order])
        assert texts == [alone[number] for number in order]
        await until(watched.settled, "all memory is free")
    if "kv_tokens" in options:
        assert ("swapped" if options.get("preemption") else "evicted") in watched.states()
        assert max(each.kv_tokens for each in watched.iterations()) <= options["kv_tokens"]
    assert max(each.prefill + each.decodes for each in watched.iterations()) <= options.get("budget", 1e9)


Logits = dict[float, list[Tensor]]


@pytest.fixture
def logits(monkeypatch: pytest.MonkeyPatch) -> Logits:
    """All logits that engines sample from, by the temperature of the request."""
    logits: Logits = {}

    def recording_sample(rows: Tensor, samplers: list[Sampler]) -> list[int]:
        for row, sampler in zip(rows, samplers, strict=True):
            logits.setdefault(sampler.temperature, []).append(row.clone())
        return sample(rows, samplers)

    monkeypatch.setattr("labkit.engine.runner.sample", recording_sample)
    return logits


async def test_batch_invariant_is_meant_bit_for_bit_even_after_an_eviction(
    logits: Logits, bits_kept: None
) -> None:
    requests = [request_of(n % 3 + 3, temperature=0.5 + n / 100, max_tokens=130) for n in range(6)]
    with WatchedEngine(**EXACT) as watched:
        for request in requests:
            await answers(watched.engine, [request])
    alone = {temperature: torch.stack(rows) for temperature, rows in logits.items()}
    logits.clear()
    with WatchedEngine(**EXACT, **TIGHT, budget=33, prefix_cache=1024) as watched:
        await answers(watched.engine, requests)
    assert "evicted" in watched.states()
    assert len(alone) == len(logits) == len(requests)
    assert all(torch.equal(torch.stack(rows), alone[temperature]) for temperature, rows in logits.items())


async def test_without_batch_invariant_texts_are_the_same_but_for_ties(engine: LocalEngine) -> None:
    alone = [text for request in REQUESTS for text in await answers(engine, [request])]
    texts = await answers(engine, REQUESTS)
    assert sum(a == b for a, b in zip(texts, alone, strict=True)) >= len(texts) - 1


async def test_texts_stay_whole_while_every_knob_turns(alone: list[str]) -> None:
    policies, budgets, paces = cycle(POLICIES), cycle([20, 0, 200]), cycle([0, 0, 1])
    kv_tokens, memory = cycle([1024, 8192, 2048]), cycle(["optimistic", "optimistic", "reserve"])
    preemption = cycle(["swap", "recompute"])
    with WatchedEngine(**EXACT, seqs=8) as watched:
        texts = asyncio.ensure_future(answers(watched.engine, REQUESTS))
        turns = 0
        while not texts.done():
            watched.engine.tune(policy=next(policies), budget=next(budgets), interval_ms=next(paces))
            watched.engine.tune(kv_tokens=next(kv_tokens), memory=next(memory), preemption=next(preemption))
            turns += 1
            await asyncio.sleep(0.02)
        assert await texts == alone
        assert turns > 10
    assert {"evicted", "swapped", "finished"} <= set(watched.states())


async def test_a_reader_who_leaves_frees_its_memory_at_once() -> None:
    with WatchedEngine() as watched:
        leaving, staying = (watched.engine.submit(request_of(0, max_tokens=100)) for _ in range(2))

        def leave(record: Record) -> None:
            if isinstance(record, Iteration) and leaving.produced == 20:
                leaving.close()

        watched.engine.watch(leave)
        whole(await collect(staying))
        await until(watched.settled, "all memory is free")
    here = [0 in each.emitted for each in watched.iterations()]
    assert sum(here) == 20 and "dropped" in watched.states()
    after = watched.iterations()[len(here) - here[::-1].index(True) :]
    assert after and all(each.running == 1 for each in after)


async def test_of_a_prompt_that_begins_like_another_only_the_rest_is_read(
    bits_kept: None,
) -> None:
    first, second = (GenerateRequest(prompt=9 * STORY + end, max_tokens=20) for end in ("Ivy", "One day"))
    with WatchedEngine(**EXACT) as plain:
        expected = await answers(plain.engine, [second])
    with WatchedEngine(**EXACT, prefix_cache=2048) as watched:
        await answers(watched.engine, [first])
        read = sum(each.prefill for each in watched.iterations())
        assert await answers(watched.engine, [second]) == expected
        again = sum(each.prefill for each in watched.iterations()) - read
    assert again < 20 < 200 < read


@pytest.mark.parametrize(
    ("policy", "preemption"),
    [*((name, "recompute") for name in POLICIES if name != "static"), ("sarathi", "swap")],
)
async def test_stalled_readers_with_all_seats_block_no_other(
    policy: str, preemption: Any, bits_kept: None
) -> None:
    with WatchedEngine(**EXACT, seqs=2, policy=policy, preemption=preemption) as watched:
        unread = [watched.engine.submit(request_of(n, max_tokens=120)) for n in range(2)]
        await until(lambda: all(s.produced >= HIGH_WATER - 1 for s in unread), "both are full")
        for number in range(3):
            whole(await asyncio.wait_for(collect(watched.engine.submit(request_of(number))), PATIENCE_S))
        texts = [whole(await collect(stream)) for stream in unread]
        assert texts == await answers(watched.engine, [request_of(n, max_tokens=120) for n in range(2)])


async def test_256_requests_at_once_are_all_answered(engine: LocalEngine) -> None:
    requests = [request_of(n, prompt=PROMPTS[n % 4], max_tokens=1 + n % 12) for n in range(256)]
    assert all(await answers(engine, requests))
    await until(lambda: engine._core.kv_tokens == 0, "all memory is free")


@pytest.mark.parametrize("options", [{"int8": True}, {"dtype": "bfloat16"}])
async def test_rougher_numbers_write_stories_too(options: dict[str, Any]) -> None:
    with closing(LocalEngine(**options)) as engine:
        requests = [GenerateRequest(prompt=PROMPTS[n % 2], max_tokens=80, seed=n) for n in range(8)]
        texts = await answers(engine, requests)
    sentences = [part for n, text in enumerate(texts) for part in stories.sentences(PROMPTS[n % 2] + text)]
    assert sum(map(stories.is_grammatical, sentences)) / len(sentences) > 0.5


@pytest.mark.parametrize("travel", [native.request_to_dict, protobuf.request_to_proto])
async def test_the_readers_pace_travels_to_the_scheduler(engine: LocalEngine, travel: Any) -> None:
    message = travel(GenerateRequest(prompt="Once", max_tokens=1, reader_tps=3.25, request_id="slow"))
    received = (
        protobuf.request_from_proto(
            GenerateRequest, pb.GenerateRequest.FromString(message.SerializeToString())
        )
        if isinstance(message, pb.GenerateRequest)
        else GenerateRequest.parse(message)
    )
    records: list[Record] = []
    unwatch = engine.watch(records.append)
    await collect(engine.submit(received))
    await until(lambda: any(isinstance(record, Iteration) for record in records), "it is computed")
    unwatch()
    (arrived,) = (record for record in records if isinstance(record, Arrived))
    assert (arrived.name, arrived.reader_tps) == ("slow", 3.25)
    assert arrived.prompt_tokens == len(Tokenizer.load().prompt("Once"))
    with pytest.raises(InvalidRequest, match="reader_tps"):
        GenerateRequest.parse({"prompt": "x", "reader_tps": 0})


async def test_a_watcher_that_fails_ends_neither_streams_nor_engine() -> None:
    with WatchedEngine() as watched:
        stream = watched.engine.submit(request_of(0, max_tokens=50))
        unwatch = watched.engine.watch(lambda _: [][1])
        whole(await collect(stream))
        unwatch()
        assert await answers(watched.engine, [request_of(1)])
        assert len(watched.engine._core.watchers) == 1
