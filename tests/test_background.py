"""A thread with an event loop: what happens to work that comes after its end."""

import gc
import warnings

import pytest

from labkit.background import LoopThread


async def work() -> int:
    return 1


def test_work_after_the_end_is_refused_without_a_warning() -> None:
    thread = LoopThread("labkit-test")
    assert thread.run(work()) == 1
    thread.close()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(RuntimeError, match="closed"):
            thread.run(work())
        gc.collect()
    assert [str(warning.message) for warning in caught] == []
