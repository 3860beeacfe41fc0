"""What goes wrong inside one sequence ends that sequence alone; its neighbours and the engine go on."""

import asyncio
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hf_models import byte_fallback, fast, model_of, save
from support import connect, until

import labkit
from labkit.engine import batched, hf_runner, runner
from labkit.engine.batched import BatchedEngine
from labkit.engine.detokenize import Detokenizer
from labkit.engine.hf import HFEngine
from labkit.engine.local import LocalEngine
from labkit.engine.policies import POLICIES
from labkit.engine.sampling import Sampler
from labkit.engine.sequence import Sequence
from labkit.engine.text_stream import TokenStream
from labkit.events import Event, Failed, Finished, GenerateRequest, Token
from labkit.models import ragged

PROMPTS = ("Once upon a time", "the fox", "said the other one", "nothing")
AFTER = 3
"""The token after which something goes wrong."""

Break = Callable[[pytest.MonkeyPatch, BatchedEngine], None]


class Panic(BaseException):
    """As what a panic in Rust becomes: it is no `Exception`."""


@pytest.fixture(scope="module", params=["tiny", "hf"])
def kind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """Makes an engine whose texts are the same in any company."""
    if request.param == "tiny":
        request.getfixturevalue("bits_kept")
        return lambda **options: LocalEngine(batch_invariant=True, **options)
    tokenizer = fast(byte_fallback())
    folder: Path = save(tmp_path_factory.mktemp("llama"), model_of("llama", tokenizer), tokenizer)
    return lambda **options: HFEngine(str(folder), **options)


@pytest.fixture
def engine(kind: Callable[..., BatchedEngine]) -> Iterator[BatchedEngine]:
    engine = kind(seqs=4)
    yield engine
    engine.close()


def ask(number: int, **fields: Any) -> GenerateRequest:
    """One of many requests; every other one is greedy."""
    settings = {"temperature": 0.9 * (number % 2), "seed": number, "max_tokens": 20, "ignore_eos": True}
    return GenerateRequest(**{"prompt": PROMPTS[number % len(PROMPTS)], **settings, **fields})


BAD = ask(1, request_id="bad")


def is_bad(sequence: Sequence) -> bool:
    return sequence.name == "bad" and sequence.generated >= AFTER


async def collect(stream: TokenStream) -> list[Event]:
    return [event async for event in stream]


async def answers(engine: BatchedEngine, requests: list[GenerateRequest]) -> list[list[Event]]:
    return await asyncio.gather(*(collect(engine.submit(request)) for request in requests))


def text_of(events: list[Event]) -> str:
    assert isinstance(events[-1], Finished), events[-1]
    return "".join(event.text for event in events if isinstance(event, Token))


def a_pass_that_raises(monkeypatch: pytest.MonkeyPatch, engine: BatchedEngine) -> None:
    spoil(monkeypatch, engine, lambda logits: 1 / 0)


def numbers_that_are_none(monkeypatch: pytest.MonkeyPatch, engine: BatchedEngine) -> None:
    spoil(monkeypatch, engine, lambda logits: logits.fill_(math.nan))


def numbers_that_are_infinite(monkeypatch: pytest.MonkeyPatch, engine: BatchedEngine) -> None:
    spoil(monkeypatch, engine, lambda logits: logits.fill_(-math.inf))


def spoil(
    monkeypatch: pytest.MonkeyPatch, engine: BatchedEngine, change: Callable[[torch.Tensor], Any]
) -> None:
    """Do something to the logits of a bad sequence, after its keys and values, which are none, were kept."""
    compute, step = hf_runner.HFRunner._compute, ragged.step

    def computed(self: hf_runner.HFRunner, sequence: Sequence, tokens: int) -> torch.Tensor:
        logits = compute(self, sequence, tokens)
        if is_bad(sequence):
            change(logits)
        return logits

    @torch.inference_mode()
    def stepped(model: Any, pool: Any, parts: list[ragged.Part], rows: int) -> torch.Tensor:
        logits = step(model, pool, parts, rows)
        bad = {sequence.slot for sequence in engine._core.running if is_bad(sequence)}
        for row, part in enumerate(parts):
            if part.slot in bad and part.start:  # not where the engine asks whether the model still works
                pool.kv[:, part.slot, :, :, : part.end] = math.nan
                change(logits[row])
        return logits

    monkeypatch.setattr(hf_runner.HFRunner, "_compute", computed)
    monkeypatch.setattr(runner, "step", stepped)


def a_sampler_that_raises(monkeypatch: pytest.MonkeyPatch, engine: BatchedEngine) -> None:
    class Wrong(Sampler):
        asked = 0

        @property
        def greedy(self) -> bool:
            self.asked += 1
            return bool(1 / (self.asked <= AFTER))

    def make(*settings: Any) -> Sampler:
        return (Wrong if settings[-1] == BAD.seed else Sampler)(*settings)

    monkeypatch.setattr(batched, "Sampler", make)


def a_tokenizer_that(error: BaseException) -> Break:
    def broken(monkeypatch: pytest.MonkeyPatch, engine: BatchedEngine) -> None:
        readable = Detokenizer._readable

        def fails(self: Detokenizer, text: str, hidden: bool = False) -> str:
            if self._stop == ("bad",):
                raise error
            return readable(self, text, hidden)

        monkeypatch.setattr(Detokenizer, "_readable", fails)

    return broken


FAULTS: dict[str, tuple[Break, GenerateRequest, str]] = {
    "a pass": (a_pass_that_raises, BAD, "ZeroDivisionError"),
    "NaN": (numbers_that_are_none, BAD, "not finite"),
    "infinity": (numbers_that_are_infinite, BAD, "not finite"),
    "a sampler": (a_sampler_that_raises, BAD, "ZeroDivisionError"),
    "detokenizing": (a_tokenizer_that(KeyError(3)), ask(1, stop=["bad"]), "KeyError"),
    "a panic": (a_tokenizer_that(Panic("index out of bounds")), ask(1, stop=["bad"]), "Panic: index"),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_one_ends_with_its_reason_and_its_neighbours_end_as_without_it(
    engine: BatchedEngine, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = [ask(0), ask(2), ask(3)]
    alone = [text_of(events) for events in await answers(engine, others)]
    break_it, bad, says = FAULTS[fault]
    break_it(monkeypatch, engine)
    first, second, failed, third = await answers(engine, [*others[:2], bad, others[2]])
    assert [text_of(events) for events in (first, second, third)] == alone
    assert isinstance(failed[-1], Failed) and failed[-1].code == "engine_failed"
    assert says in failed[-1].message and "\n" not in failed[-1].message
    assert engine.failed is None
    await until(lambda: not engine._sequences(), "all have left")
    # again in every slot, one of which the bad one has left
    again = await answers(engine, [*others, ask(0)])
    assert [text_of(events) for events in again] == [*alone, alone[0]]


@pytest.mark.parametrize("fault", ["a pass", "NaN"])
async def test_one_that_is_alone_is_no_broken_engine(
    engine: BatchedEngine, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    FAULTS[fault][0](monkeypatch, engine)
    for _ in range(2):
        ((*_, last),) = await answers(engine, [BAD])
        assert isinstance(last, Failed) and last.id == AFTER + 1
    assert engine.failed is None
    text_of((await answers(engine, [ask(0)]))[0])


async def test_a_pass_that_raises_whatever_it_computes_is_a_broken_engine(
    engine: BatchedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = [engine.submit(ask(number, max_tokens=45)) for number in range(3)]
    await until(lambda: all(stream.produced > 2 for stream in running), "all have begun")

    def out_of_memory(*_: object) -> None:
        raise MemoryError("out of memory\nand a long table")

    for place, name in ((runner, "step"), (hf_runner.HFRunner, "_compute")):
        monkeypatch.setattr(place, name, out_of_memory)
    for stream in running:
        *_, last = await collect(stream)
        assert isinstance(last, Failed)
        assert last.message == "the engine stopped: MemoryError: out of memory" == engine.failed


EXTREMES: dict[str, dict[str, Any]] = {
    "top_p": {"top_p": 1e-300, "temperature": 0.8},
    "the least top_p": {"top_p": 5e-324, "temperature": 2.0, "top_k": 65_536},
    "temperature": {"temperature": 1e-300},
    "the least temperature": {"temperature": 5e-324, "top_p": 5e-324, "top_k": 1},
}


@pytest.mark.parametrize("extreme", EXTREMES)
async def test_settings_that_leave_one_token_give_the_likeliest(engine: BatchedEngine, extreme: str) -> None:
    bad = ask(0, **EXTREMES[extreme])
    greedy, beside, one = await answers(engine, [ask(0), ask(1), bad])
    assert text_of(one) == text_of(greedy)
    assert len(beside) == 22 and engine.failed is None


@pytest.mark.parametrize("policy", POLICIES)
async def test_no_extreme_of_a_request_breaks_a_policy(
    kind: Callable[..., BatchedEngine], policy: str
) -> None:
    engine = kind(policy=policy, seqs=2, memory="optimistic")
    extremes: list[dict[str, Any]] = [
        {"reader_tps": 5e-324},
        {"reader_tps": 10_000.0},
        {"temperature": 2.0, "seed": 2**63 - 1, "top_k": 65_536, "top_p": 1 - 1e-16},
        {"max_tokens": 1, "stop": ["\ud800", "a" * 64]},
    ]
    requests = [GenerateRequest.model_construct(**{**dict(ask(1)), **fields}) for fields in extremes]
    ends = [events[-1] for events in await answers(engine, [ask(0), *requests, ask(1)])]
    engine.close()
    assert all(isinstance(end, Finished) for end in ends), ends


async def test_a_server_with_an_engine_of_which_one_sequence_failed_is_well(
    interface: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = LocalEngine()
    a_pass_that_raises(monkeypatch, engine)
    with labkit.serve(interface, engine) as server:
        async with connect(interface, server) as client:
            bad, well = await asyncio.gather(client.record(BAD), client.record(ask(0)))
            assert isinstance(bad.end, Failed) and bad.end.code == "engine_failed"
            assert "ZeroDivisionError" in bad.end.message
            assert isinstance(well.end, Finished)
            assert isinstance((await client.record(ask(2))).end, Finished)
        assert server.service.health()["status"] == "ok"  # type: ignore[attr-defined]
    engine.close()
