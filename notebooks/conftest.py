"""What nbval checks in a chapter besides its outputs: strict findings, and no cell whose end it can lose."""

import os
import time
from collections.abc import Generator
from typing import Any

import pytest

from labkit.lesson.findings import MODE

# Compare an inconclusive finding of `labkit.lesson` as if it held.
INCONCLUSIVE = (r"(?m)^inconclusive: (.*?) — .*$", r"✓ \1")
# nbval reads a cell's messages only after the cell's reply, and then waits 5 s for each, whatever its
# time-outs. Until then the messages lie in ZeroMQ's queues of 1,000. A queue that overflows loses messages
# silently, perhaps the "idle" that nbval waits for.
MOST_MESSAGES = 1000
LONGEST_SILENCE_S = 2.5


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: Any) -> Generator[None, None, None]:
    """Let the kernel, which starts with a chapter's first cell, inherit that findings are strict."""
    item.parent.sanitize_patterns.update([INCONCLUSIVE])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(MODE, os.environ.get(MODE, "strict"))
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: Any) -> Generator[None, None, None]:
    """Fail a cell that nbval can lose the end of; skip one whose findings are inconclusive."""
    receive = item.parent.get_kernel_message
    waits_s: list[float] = []

    def timed(*args: Any, **options: Any) -> Any:
        began_s = time.monotonic()
        message = receive(*args, **options)
        waits_s.append(time.monotonic() - began_s)
        return message

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(item.parent, "get_kernel_message", timed)
        yield
    assert len(waits_s) <= MOST_MESSAGES, f"the cell published {len(waits_s):,} messages: nbval may lose some"
    assert max(waits_s) <= LONGEST_SILENCE_S, f"after the cell's reply came {max(waits_s):.1f} s of silence"
    if lines := inconclusive(item.test_outputs):
        pytest.skip(f"{item.path.stem}, {item.name}: {'; '.join(lines)}")


def inconclusive(outputs: Any) -> list[str]:
    """The lines of a cell's outputs that say "inconclusive"."""
    texts = [output.text for output in outputs if output.output_type == "stream"]
    return [line for text in texts for line in text.splitlines() if line.startswith("inconclusive: ")]
