"""A Hugging Face model behind the scheduler: in any company its texts are those of `generate`."""

import asyncio
import json
import random
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
from support import connect, until
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors

import labkit
from labkit.engine import create_engine, trace
from labkit.engine.text_stream import TokenStream
from labkit.errors import InvalidRequest, StartError
from labkit.events import Event, Finished, GenerateRequest, Started, Token

transformers: Any = pytest.importorskip("transformers", reason='needs pip install "labkit[hf]"')

from labkit.engine.hf import HFEngine, load_model  # noqa: E402
from labkit.engine.hf_runner import HFRunner  # noqa: E402
from labkit.engine.hf_vocabulary import HFVocabulary  # noqa: E402
from labkit.engine.runner import SampledSequence  # noqa: E402
from labkit.engine.sampling import Sampler  # noqa: E402

TEXTS = [
    "Once upon a time there was a fox who lived under the hill, and the hill was green. ",
    "«Été», said the fox: the other one said 日本 and 🦊🦊, then   nothing.\n\nThe end.",
]
PROMPTS = ["Once upon a time", "the fox 日本 and the hill", "nothing", "said the other one: 🦊 then"]
CONTEXT = 64
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
    "initializer_range": 0.5,  # so large that the likeliest token is seldom the one before
}
SPECIAL = ["<s>", "</s>", "<unk>"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def bpe(alphabet: list[str], words: list[str], **options: Any) -> tokenizers.Tokenizer:
    """A tokenizer that knows these words and how they begin."""
    merges = list(dict.fromkeys((word[:end], word[end]) for word in words for end in range(1, len(word))))
    tokens = dict.fromkeys([*alphabet, *map("".join, merges)])
    inner = tokenizers.Tokenizer(models.BPE({token: n for n, token in enumerate(tokens)}, merges, **options))
    inner.add_special_tokens(SPECIAL)
    return inner


def byte_level() -> tokenizers.Tokenizer:
    """As GPT-2's: letters stand for bytes."""
    split = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words = [word for text in TEXTS for word, _ in split.pre_tokenize_str(text)]
    inner = bpe([*SPECIAL, *sorted(split.alphabet())], words)
    inner.pre_tokenizer = split
    inner.decoder = decoders.ByteLevel()
    inner.add_tokens(
        [AddedToken("<é call>", normalized=False)]
    )  # text that is not spelt in letters for bytes
    return inner


def byte_fallback() -> tokenizers.Tokenizer:
    """As Llama's: `▁` for spaces, bytes for letters that it does not know, a start token."""
    words = [word for text in TEXTS for word in re.findall("▁?[a-zO]+", text.replace(" ", "▁"))]
    letters = sorted({letter for word in words for letter in word})
    inner = bpe([*SPECIAL, *BYTES, *letters], words, byte_fallback=True, unk_token="<unk>")
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    spaces = decoders.Replace("▁", " ")
    strip = decoders.Strip(" ", 1, 0)
    inner.decoder = decoders.Sequence([spaces, decoders.ByteFallback(), decoders.Fuse(), strip])
    inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return inner


def metaspace() -> tokenizers.Tokenizer:
    """As those of SentencePiece's unigram models."""
    letters = sorted(set("▁" + "".join(TEXTS)))
    pieces = [*SPECIAL, *letters, "▁the", "▁fox", "▁▁", "ing", "ther"]
    inner = tokenizers.Tokenizer(models.Unigram([(piece, -1.0) for piece in pieces], unk_id=2))
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.decoder = decoders.Metaspace()
    inner.add_special_tokens(SPECIAL)
    return inner


def fast(inner: tokenizers.Tokenizer) -> Any:
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def save(folder: Path, model: Any, tokenizer: Any = None) -> Path:
    model.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    return folder


def model_of(kind: str, tokenizer: Any) -> Any:
    """A model of a kind, with random weights that never choose a special token or a byte."""
    torch.manual_seed(2)
    size = len(tokenizer)
    config = transformers.AutoConfig.for_model(kind, vocab_size=size, eos_token_id=1, bos_token_id=0, **SIZES)
    if kind == "gpt2":
        config.n_inner = 48
    model = transformers.AutoModelForCausalLM.from_config(config)
    for token in [*SPECIAL, *BYTES]:
        if token in tokenizer.get_vocab():
            model.get_output_embeddings().weight.data[tokenizer.convert_tokens_to_ids(token)] = 0
    return model.eval()


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


@pytest.mark.parametrize("make", [byte_level, byte_fallback, metaspace])
def test_the_pieces_of_an_answer_are_what_the_tokenizer_decodes(
    make: Callable[[], tokenizers.Tokenizer],
) -> None:
    tokenizer = fast(make())
    vocabulary = HFVocabulary(tokenizer, len(tokenizer))
    prompt = vocabulary.prompt("Once upon")
    start = tokenizer.decode(prompt, skip_special_tokens=True)
    # random bytes are not UTF-8, and how many U+FFFD they become is not defined
    whole = [n for n in range(len(tokenizer)) if "\ufffd" not in tokenizer.decode([n])]
    answers = [random.Random(seed).choices(whole, k=30) for seed in range(300)]
    written = [*TEXTS, *PROMPTS, "ö \n <é call> <0x41>"]
    answers += [tokenizer(text, add_special_tokens=False).input_ids for text in written]
    for ids in answers:
        pieces = b"".join(vocabulary.token_bytes(token_id) for token_id in ids)
        assert start + pieces.decode() == tokenizer.decode(prompt + ids, skip_special_tokens=True)


def test_special_tokens_and_ids_beyond_the_tokenizer_add_no_text() -> None:
    tokenizer = fast(byte_level())
    vocabulary = HFVocabulary(tokenizer, 1000)
    assert [vocabulary.token_bytes(token_id) for token_id in (0, 1, 2, 999)] == [b""] * 4


def test_a_prompt_begins_as_the_tokenizer_has_it_and_may_spell_special_tokens_out() -> None:
    plain, started = (HFVocabulary(fast(make()), 1000) for make in (byte_level, byte_fallback))
    assert started.prompt("fox")[0] == 0 and started.prompt("fox").count(0) == 1
    assert 0 not in plain.prompt("fox")
    assert plain.prompt("fox</s>")[-1] == 1


def test_a_tokenizer_that_truncates_does_not_cut_a_prompt() -> None:
    inner = byte_level()
    inner.enable_truncation(4)
    vocabulary = HFVocabulary(fast(inner), 1000)
    # at once, since to change a tokenizer is an error while another thread uses it
    assert vocabulary._inner.truncation is None
    assert len(vocabulary.prompt("word " * 50)) > 50


def test_a_prompt_without_a_token_that_the_model_knows_is_refused() -> None:
    tokenizer = fast(byte_level())
    with pytest.raises(InvalidRequest, match="'<é call>'"):
        HFVocabulary(tokenizer, len(tokenizer) - 1).prompt("fox <é call>")
    vocabulary = HFVocabulary(fast(metaspace()), 1000)
    vocabulary._inner.normalizer = normalizers.Replace("x", "")
    with pytest.raises(InvalidRequest, match="no token"):
        vocabulary.prompt("xx")


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
    runner = HFRunner(load_model(str(llama), "cpu", "float32"))
    first = runner.run([(sequence, 3)])
    assert runner.run([(sequence, 3)]) == first
    assert runner._caches[sequence].get_seq_length() == 3


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
    assert isinstance(events[-1], Finished)
    assert (events[-1].reason, len(longer)) == ("stop", 42)
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


def config_only(folder: Path, **fields: Any) -> None:
    (folder / "config.json").write_text(json.dumps(fields), encoding="utf-8")


def without_weights(folder: Path) -> None:
    tokenizer = fast(byte_level())
    save(folder, model_of("llama", tokenizer), tokenizer)
    (folder / "model.safetensors").unlink()


def pickled(folder: Path) -> None:
    without_weights(folder)
    torch.save(model_of("llama", fast(byte_level())).state_dict(), folder / "pytorch_model.bin")


def cut_off(folder: Path) -> None:
    without_weights(folder)
    (folder / "model.safetensors").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{")


def without_tokenizer(folder: Path) -> None:
    save(folder, model_of("llama", fast(byte_level())))


def headless(folder: Path) -> None:
    tokenizer = fast(byte_level())
    save(folder, model_of("llama", tokenizer).model, tokenizer)


def encoder(folder: Path) -> None:
    tokenizer = fast(byte_level())
    config = transformers.BertConfig(vocab_size=len(tokenizer), **SIZES)
    save(folder, transformers.BertForMaskedLM(config), tokenizer)


def recurrent(folder: Path) -> None:
    tokenizer = fast(byte_level())
    config = transformers.MambaConfig(vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1)
    save(folder, transformers.MambaForCausalLM(config), tokenizer)


def with_code(folder: Path) -> None:
    config_only(
        folder, model_type="own", auto_map={"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Model"}
    )
    (folder / "own.py").write_text("raise SystemExit('the code of a model was run')", encoding="utf-8")


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "an empty folder": (lambda folder: None, "save_pretrained"),
    "no configuration": (
        lambda folder: (folder / "config.json").write_text("{", encoding="utf-8"),
        "save_pretrained",
    ),
    "an unknown kind": (lambda folder: config_only(folder, model_type="huge"), "`huge`"),
    "code of its own": (with_code, "by itself"),
    "a model of images": (lambda folder: config_only(folder, model_type="vit"), "tokenizer"),
    "no tokenizer": (without_tokenizer, "tokenizer.save_pretrained"),
    "no weights": (without_weights, "safetensors"),
    "weights in a pickle": (pickled, "safetensors"),
    "weights cut off": (cut_off, "safetensors"),
    "no head": (headless, "lm_head.weight is missing"),
    "an encoder": (encoder, "looks ahead"),
    "no keys and values": (recurrent, "decoder-only"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_folder_without_a_causal_model_is_refused_in_one_line(what: str, tmp_path: Path) -> None:
    make, says = BROKEN[what]
    make(tmp_path)
    with pytest.raises(StartError) as error:
        create_engine(f"hf:{tmp_path}")
    assert says in str(error.value) and str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)
    assert error.value.__cause__ is None


@pytest.mark.parametrize("path", ["/no/such", "./nowhere", "nobody/nothing", "no such name"])
def test_a_missing_folder_is_refused_in_one_line(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(StartError, match=f"^{path}: there is no such folder") as error:
        create_engine(f"hf:{path}")
    assert "\n" not in str(error.value)
    assert error.value.__cause__ is None


@pytest.mark.parametrize("option", ["context=1", "kv_tokens=16", "seqs=0", "policy=none", "prefix_cache=-1"])
def test_an_option_out_of_range_is_named(llama: Path, option: str) -> None:
    with pytest.raises(StartError, match=option.partition("=")[0]):
        create_engine(f"hf:{llama},{option}")
