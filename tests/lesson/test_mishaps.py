"""What goes wrong in a chapter's cell is one line in a real kernel, and the cells after it run."""

import re
from collections.abc import Iterator

import pytest
from kernel import Kernel, kernel

from labkit.errors import Overloaded
from labkit.lesson import check, guessed
from labkit.lesson.mishaps import LONGEST, one_line, told

# A cell, and the line that a learner reads.
CELLS = {
    "error": ("x = 1\n1 / 0", r"ZeroDivisionError in line 2: division by zero \(%tb shows .*\)"),
    "name": ("recordings['sse']", r"`recordings` is not there: run the cell above that makes it\. .*"),
    "syntax": ("my_guess = 200 ms", r"This is not Python in line 1: invalid .*\."),
    "indent": ("if True:\npass", r"This is not Python in line 2: expected an indented block .*"),
    "await": ("import asyncio\nawait asyncio.sleep(0)\n{}[1]", r"KeyError in line 3: 1 \(%tb .*\)"),
    "function": ("def f():\n    return 1 / 0\n\nf()", r"ZeroDivisionError in line 4: .*"),
    "labkit": ("from labkit.errors import Overloaded\nraise Overloaded('16 are open')", r"16 are open"),
    "many lines": (
        "import labkit\nlabkit.GenerateRequest(prompt='', max_tokens=0)",
        r"ValidationError in line 2: 2 validation errors .*prompt String .*",
    ),
}
LONG = {
    "sleep": "import time\nprint('on')\ntime.sleep(60)",
    # An interrupt acts on a cell that awaits when its loop turns, as it does for every byte that comes.
    "await": "import asyncio\nprint('on')\nwhile True: await asyncio.sleep(0.05)",
    "compute": "print('on')\nwhile True: sum(range(1000))",
    "join": "import threading\nthread = threading.Thread(target=threading.Event().wait, daemon=True)\n"
    "thread.start()\nprint('on')\nthread.join()",
    "server": """import labkit
server = labkit.serve("sse", "scripted:tokens=4000,interval_ms=20")
print("on")
server.ask(labkit.GenerateRequest(prompt="x", max_tokens=4000))""",
    "replay": """from labkit.engine.trace import Arrived
from labkit.widgets import ScheduleView, replay
playing = replay([Arrived(t, t, f"{t}", 1, 1, 1.0) for t in range(60)], ScheduleView())
print("on")
playing.wait()""",
}


@pytest.fixture(scope="module")
def learner() -> Iterator[Kernel]:
    with kernel() as running:
        running.run("import labkit.lesson")
        yield running


@pytest.mark.parametrize("name", CELLS)
def test_an_error_is_one_line_and_the_next_cell_runs(learner: Kernel, name: str) -> None:
    cell, line = CELLS[name]
    ran = learner.run(cell)
    assert (ran.status, ran.errors) == ("ok", [])
    assert re.fullmatch(line, ran.printed.rstrip("\n")), ran.printed
    assert learner.run("print('next')").lines == ["next"]


@pytest.mark.parametrize("after_s", [0.0, 0.3])
@pytest.mark.parametrize("name", LONG)
def test_an_interrupt_is_one_line_and_the_next_cell_runs(learner: Kernel, name: str, after_s: float) -> None:
    ran = learner.run(LONG[name], interrupt_at="on", after_s=after_s)
    assert (ran.status, ran.errors) == ("ok", [])
    assert ran.lines == ["on", "Interrupted. For its result, run this cell again."]
    assert learner.run("print('next')").lines == ["next"]


def test_the_traceback_is_there_for_who_asks(learner: Kernel) -> None:
    learner.run("def half(n):\n    return n / 0\n\nhalf(1)")
    shown = learner.run("%tb")
    assert "return n / 0" in re.sub(r"\x1b\[[\d;]*m", "", shown.errors[0])


def test_a_tested_chapter_fails_by_its_error() -> None:
    with kernel() as tested:
        tested.run("import os\nos.environ['LABKIT_FINDINGS'] = 'strict'\nimport labkit.lesson")
        ran = tested.run("1 / 0")
    assert ran.status == "error"
    assert "ZeroDivisionError" in ran.errors[0]


def test_a_long_message_is_cut_and_an_error_of_labkit_speaks_for_itself() -> None:
    assert one_line(ValueError("many\n  lines")) == "many lines"
    assert len(one_line(ValueError("x" * 5000))) == LONGEST + 1
    assert told(Overloaded("try again later"), 3) == "try again later"


@pytest.mark.parametrize("guess", ["fast", "200 ms", None, [200], 1j, 10**400])
def test_a_guess_that_is_no_number_is_one_line(guess: object, capsys: pytest.CaptureFixture[str]) -> None:
    guessed(guess, 5.157, "ms")
    said = capsys.readouterr().out
    assert re.fullmatch(r"A guess is a number without a unit, not .*; just now it was 5\.157 ms\.\n", said)


def test_a_guess_may_be_a_number_in_quotes(capsys: pytest.CaptureFixture[str]) -> None:
    guessed("7", 5.157, "ms")
    assert capsys.readouterr().out == "You guessed 7 ms; just now it was 5.157 ms.\n"


def test_a_condition_that_raises_is_one_line_of_the_check() -> None:
    def raises(_: object) -> bool:
        raise ValueError("two\nlines")

    assert repr(check("x", {"it is even": raises})).splitlines() == [
        "✗ it is even  (ValueError: two lines)",
        "Not yet: change it and run again.",
    ]
