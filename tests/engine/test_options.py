"""The options of engines: one declaration serves the constructor, the text form and the knobs."""

from collections.abc import Iterator
from dataclasses import FrozenInstanceError, fields
from typing import Any

import pytest

from labkit.engine import create_engine
from labkit.engine.local import LocalEngine
from labkit.engine.options import Options, Scheduling
from labkit.errors import InvalidRequest

VALUES: dict[str, Any] = {
    "interval_ms": 2.5,
    "policy": "fcfs",
    "budget": 7,
    "seqs": 3,
    "kv_tokens": 2048,
    "memory": "optimistic",
    "preemption": "swap",
    "prefix_cache": 64,
    "threads": 2,
}
"""Another value than the default for every option."""


@pytest.fixture(scope="module")
def engine() -> Iterator[LocalEngine]:
    engine = LocalEngine()
    yield engine
    engine.close()


def test_every_option_goes_through_the_constructor_and_the_text_form() -> None:
    assert VALUES.keys() == {field.name for field in fields(Scheduling)}
    text = "tiny:" + ",".join(f"{name}={value}" for name, value in VALUES.items())
    for engine in (LocalEngine(**VALUES), create_engine(text)):
        assert isinstance(engine, LocalEngine)
        assert engine.scheduling == Scheduling(**VALUES)
        assert (engine.interval_ms, engine.kv_limit, engine._core.policy.name) == (2.5, 2048, "fcfs")
        engine.close()


@pytest.mark.parametrize("name", sorted(VALUES.keys() - Scheduling.fixed))
def test_every_option_that_is_not_fixed_is_a_knob(name: str) -> None:
    with_value = Scheduling().turned("tiny", {name: VALUES[name]})
    assert getattr(with_value, name) == VALUES[name]
    assert with_value.turned("tiny", {name: getattr(Scheduling(), name)}) == Scheduling()


@pytest.mark.parametrize("name", ["seqs", "prefix_cache", "threads"])
def test_a_fixed_option_is_no_knob(name: str) -> None:
    with pytest.raises(InvalidRequest, match=f"engine 'tiny' has no knob '{name}': it has .*kv_tokens"):
        Scheduling().turned("tiny", {name: VALUES[name]})


def test_an_unknown_option_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InvalidRequest, match=r"no option 'polcy': it has .*policy"):
        LocalEngine(polcy="fcfs")
    with pytest.raises(InvalidRequest, match=r"no knob 'seqs': it has interval_ms$"):
        Options().turned("scripted", {"seqs": 3})


@pytest.mark.parametrize("value", [-1, 3_600_001, float("nan"), float("inf"), "soon", None])
def test_a_pace_out_of_range_is_refused(value: object) -> None:
    with pytest.raises(InvalidRequest, match="interval_ms: "):
        Options.checked({"interval_ms": value})


def test_memory_without_a_size_is_all_that_the_sequences_can_use(engine: LocalEngine) -> None:
    assert engine.kv_limit == engine.scheduling.kv_tokens == 64 * 1024
    assert Scheduling(seqs=3).within(100).kv_tokens == 3 * 112, "in blocks of 16"


def test_options_do_not_change_in_place() -> None:
    with pytest.raises(FrozenInstanceError):
        Scheduling().budget = 3  # type: ignore[misc]


def test_a_knob_leaves_the_policy_and_the_other_options_as_they_are(engine: LocalEngine) -> None:
    policy, before = engine._core.policy, engine.scheduling
    engine.tune(budget=9)
    assert engine._core.policy is policy
    assert engine.scheduling == before.turned("tiny", {"budget": 9})
    assert engine._core.limits is engine.scheduling
