"""The engine's benchmark: equal tokens from all peers, ratios within a round, a reason for a missing peer."""

import sys
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import pytest
from support import shown

from labkit.bench import bounds, engine
from labkit.bench.peer_process import Generation, PeerProcess
from labkit.errors import StartError


def test_peers_choose_the_same_tokens_from_the_same_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(engine.LLAMA_PYTHON, raising=False)
    shares: list[float] = []
    result = engine.measure(
        models=("tiny",),
        batches=(1, 2),
        tokens=12,
        rounds=2,
        progress=lambda step, share: shares.append(share),
    )
    here = [name for name in (engine.OWN, engine.HF, engine.NAIVE) if name not in result.skipped]
    expected = [(name, 1, 16) for name in here]
    expected += [(name, 2, 16) for name in here if name != engine.NAIVE]
    expected += [(name, 1, engine.LATE) for name in here if name != engine.HF]
    assert [(rate.peer, rate.case.batch, rate.case.prompt_tokens) for rate in result.rates] == expected
    for rate in result.rates:
        assert len(rate.rounds_tokens_s) == 2 and min(rate.rounds_tokens_s) > 0
        assert rate.same_tokens == 1.0
        assert rate.ratio > 0 and rate.target is None
    assert [rate.ratio for rate in result.rates if rate.peer == engine.OWN] == [1.0, 1.0, 1.0]
    for rate in result.rates:
        assert (rate.bound is None) == (rate.peer == engine.NAIVE)
        assert rate.bound is None or rate.bound.share > 0
    for floors in result.floors["tiny"].values():
        assert floors.weights_bytes == 4 * 933_888
        assert floors.reading_s > 0 and floors.products_s > 0 and floors.starting_s > 0
        assert 50 < floors.operations < 500
    assert result.floors["tiny"].keys() == {1, 2}
    assert "tiny, batch 2: weights" in shown(engine.tables(result))
    assert result.parameters == {"tiny": 933_888}
    assert shares == sorted(shares) and 0 <= shares[0] < shares[-1] < 1
    assert f"{engine.LLAMA} is skipped: {engine.LLAMA_PYTHON}" in shown(engine.tables(result))


def case(model: str = engine.TARGET_MODEL, batch: int = 1, tokens: int = engine.TARGET_TOKENS) -> engine.Case:
    return engine.Case(model, batch, 16, tokens)


def answers(own_s: float, other_s: float, tokens: int = engine.TARGET_TOKENS) -> dict[str, Generation]:
    return {engine.OWN: Generation(own_s, [[7] * tokens]), engine.HF: Generation(other_s, [[7] * tokens])}


def test_a_peer_is_compared_within_each_round() -> None:
    rounds = [answers(1.0, 3.0), answers(10.0, 20.0), answers(1.0, 2.5)]
    rate = engine._rate(engine.HF, case("tiny"), rounds)
    assert rate.ratio == pytest.approx(2.5)
    assert rate.tokens_s == pytest.approx((engine.TARGET_TOKENS - 1) / 3.0)
    assert rate.target is None


@pytest.mark.parametrize(("seconds", "word"), [(1.7, "met"), (1.5, "not met")])
def test_a_target_of_the_engine_is_met_or_not(seconds: float, word: str) -> None:
    rate = engine._rate(engine.HF, case(), [answers(1.0, seconds)])
    result = engine.Peers(1, {engine.TARGET_MODEL: 5_000_000}, {}, {}, [rate])
    assert f"≥ 1.6× {word}" in shown(engine.tables(result))
    assert "1 × 16+200" in shown(engine.tables(result))


@pytest.mark.parametrize(
    ("reading_s", "products_s", "counted", "by", "share"),
    [
        (0.3, 0.5, True, "weights", 0.25),
        (0.1, 0.5, True, "products", 0.25),
        (0.1, 0.3, True, "dispatch", 0.2),
        (0.1, 0.3, False, "products", 0.15),
    ],
)
def test_a_row_says_what_bounds_it(
    reading_s: float, products_s: float, counted: bool, by: str, share: float
) -> None:
    floors = bounds.Floors(1000, reading_s, 2000, products_s, operations=100, starting_s=0.004)
    bound = bounds.bound_of(floors, 2.0, counted)
    assert bound.by == by
    assert bound.share == pytest.approx(share)


def test_the_table_shows_bounds_and_what_they_are_shares_of() -> None:
    floors = bounds.Floors(4_000_000_000, 0.1, 60_000_000_000, 0.6, operations=100, starting_s=0.7e-6)
    own = Generation(199 * 0.8, [[7] * engine.TARGET_TOKENS], asdict(floors))
    other = Generation(199 * 2.4, [[7] * engine.TARGET_TOKENS])
    rates = [
        engine._rate(name, case(), [{engine.OWN: own, engine.HF: other}]) for name in (engine.OWN, engine.HF)
    ]
    result = engine.Peers(1, {engine.TARGET_MODEL: 1}, {}, {}, rates, {engine.TARGET_MODEL: {1: floors}})
    lines = shown(engine.tables(result))
    assert "products 75%" in lines and "products 25%" in lines
    assert "weights 40 GB/s, products 100 GFLOP/s, dispatch 100 × 0.7 µs" in lines


def test_a_peer_without_a_cache_is_judged_behind_a_long_prompt() -> None:
    late = engine.Case(engine.TARGET_MODEL, 1, engine.LATE, engine.LATE_TOKENS)
    assert (late.target(engine.NAIVE), late.target(engine.HF)) == (engine.LATE_TARGET, None)
    assert case().target(engine.NAIVE) is None
    assert case(tokens=32).target(engine.HF) is None
    assert case("tiny").target(engine.HF) is None


def test_the_share_of_equal_tokens_is_counted() -> None:
    answered = {engine.OWN: Generation(1.0, [[1, 2], [3, 4]]), engine.HF: Generation(1.0, [[1, 2], [9, 4]])}
    assert engine._rate(engine.HF, case("tiny", 2), [answered]).same_tokens == 0.75


def test_a_missing_peer_says_what_it_needs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    optional = {name: engine.FILES[name] for name in (engine.HF, engine.LLAMA)}
    monkeypatch.setattr(engine, "FILES", optional)
    monkeypatch.setattr(engine, "find_spec", lambda name: None)
    monkeypatch.setenv(engine.LLAMA_PYTHON, str(tmp_path / "python"))
    with ExitStack() as stack:
        bench = engine._Bench(stack)
        assert bench.ready() == {}
    assert bench.skipped[engine.HF] == 'pip install "labkit[hf]"'
    assert "python does not start: No such file" in bench.skipped[engine.LLAMA]


PEER = """
PACKAGES = ("torch",)
loads = 0
def load(folder):
    global loads
    loads += 1
    def generate(prompts, tokens):
        print("not a reply")
        return 0.5, [[loads] * tokens for _ in prompts]
    return generate
"""


def test_a_peer_loads_each_model_once_and_may_print(tmp_path: Path) -> None:
    (tmp_path / "peer.py").write_text(PEER, encoding="utf-8")
    with PeerProcess("mine", str(tmp_path / "peer.py")) as peer:
        assert peer.ready().keys() == {"torch"}
        loads = [peer.ask(Path(folder), [[1], [2]], 3).tokens for folder in ("a", "a", "b")]
    assert loads == [[[1, 1, 1]] * 2, [[1, 1, 1]] * 2, [[2, 2, 2]] * 2]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import nothing_of_that_name", "No module named 'nothing_of_that_name'"),
        ("import sys; sys.exit(3)", "status 3"),
    ],
)
def test_a_peer_that_does_not_start_is_skipped_with_its_last_words(
    text: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "peer.py").write_text(text, encoding="utf-8")
    monkeypatch.setattr(engine, "FILES", {engine.LLAMA: str(tmp_path / "peer.py")})
    monkeypatch.setenv(engine.LLAMA_PYTHON, sys.executable)
    with ExitStack() as stack:
        bench = engine._Bench(stack)
        bench.ready()
        assert bench.names(case()) == []
    assert words in bench.skipped[engine.LLAMA]


def test_a_peer_that_breaks_later_ends_with_its_error(tmp_path: Path) -> None:
    (tmp_path / "peer.py").write_text(
        PEER.replace('print("not a reply")', "raise ValueError('too much')"), encoding="utf-8"
    )
    with PeerProcess("mine", str(tmp_path / "peer.py")) as peer:
        peer.ready()
        with pytest.raises(StartError, match=r"mine: ValueError: too much \(peer\.py, line 8\)"):
            peer.ask(tmp_path, [[1]], 3)
