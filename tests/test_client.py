"""The defaults of a client class."""

import pytest

from labkit.client import Client


class PigeonClient(Client):
    name = "pigeon"


def test_a_new_interface_streams_carries_everything_and_comes_after_the_basic_ones() -> None:
    assert (PigeonClient.streams, PigeonClient.lacks, PigeonClient.cpu_target) == (True, frozenset(), None)
    assert PigeonClient.rank > 40


@pytest.mark.parametrize(
    ("prompt", "argument"),
    [("coo", "coo"), ("Once upon a time", "'Once upon a time'"), ("it's", "'it'\"'\"'s'")],
)
def test_its_example_is_labkit_s_own_client(prompt: str, argument: str) -> None:
    assert PigeonClient.example("coo://h:1", prompt) == f"labkit stream pigeon {argument} --url coo://h:1"
