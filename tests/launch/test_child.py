"""A child process: each order has its reply, its end is noticed, and only the parent's modules are found."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

import labkit
from labkit import child as child_module
from labkit.child import Child
from labkit.engine.isolated import IsolatedEngine
from labkit.errors import EngineFailed, InvalidRequest, LabkitError, StartError

PATIENCE_S = 20.0

ECHO = """
import time
from contextlib import contextmanager
from labkit.errors import InvalidRequest

def echo(text, after_s=0):
    time.sleep(after_s)
    if text == "refuse":
        raise InvalidRequest("refused")
    if text == "break":
        raise ValueError("broken into\\ntwo lines")
    return text

@contextmanager
def work():
    yield "ready", echo
"""

Start = Callable[..., Child]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a child whose file has the given text."""
    children: list[Child] = []

    def start_child(text: str, order: dict[str, Any] | None = None, **options: Any) -> Child:
        file = tmp_path / "its_work.py"
        file.write_text(text, encoding="utf-8")
        children.append(Child("the echo", file, order or {}, **options))
        return children[-1]

    yield start_child
    for child in children:
        child.close()


def yields(expression: str, *before: str) -> str:
    """A file whose `work` yields the expression's value as its first reply."""
    lines = ["import contextlib, os, subprocess, sys, time", *before, "@contextlib.contextmanager"]
    return "\n".join([*lines, "def work():", f"    yield {expression}, lambda: None", ""])


def test_every_order_has_its_reply(start: Start) -> None:
    child = start(ECHO)
    assert child.ready(PATIENCE_S) == "ready"
    assert [child.call({"text": text}, PATIENCE_S) for text in ("a", "é\n", "")] == ["a", "é\n", ""]


def test_threads_that_call_at_once_each_get_their_own_reply(start: Start) -> None:
    child = start(ECHO)
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda n: child.call({"text": n}, PATIENCE_S), range(200)))
    assert replies == list(range(200))


def test_error_of_labkit_keeps_its_kind_and_another_is_one_line_with_its_place(
    start: Start, capfd: pytest.CaptureFixture[str]
) -> None:
    child = start(ECHO, failure=EngineFailed)
    with pytest.raises(InvalidRequest, match=r"^refused$"):
        child.call({"text": "refuse"}, PATIENCE_S)
    place = r"\(its_work\.py, line 11\)"
    with pytest.raises(EngineFailed, match=rf"^the echo: ValueError: broken into two lines {place}$"):
        child.call({"text": "break"}, PATIENCE_S)
    with pytest.raises(EngineFailed, match=r"the echo: TypeError: .* unexpected keyword argument 'volume'"):
        child.call({"volume": 3}, PATIENCE_S)
    assert child.call({"text": "goes on"}, PATIENCE_S) == "goes on"
    assert capfd.readouterr() == ("", "")


def test_file_that_breaks_at_its_import_is_one_line_and_the_child_is_closed(start: Start) -> None:
    child = start("import nothing_of_that_name")
    with pytest.raises(StartError, match=r"No module named 'nothing_of_that_name' \(its_work\.py, line 1\)"):
        child.ready(PATIENCE_S)
    assert not child.running


def test_interrupted_wait_leaves_the_next_call_its_own_reply(start: Start) -> None:
    child = start(ECHO)
    child.ready(PATIENCE_S)
    interrupt = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    interrupt.start()
    with pytest.raises(KeyboardInterrupt):
        child.call({"text": "late", "after_s": 1.0}, PATIENCE_S)
    assert child.call({"text": "next"}, PATIENCE_S) == "next"


def test_child_that_does_not_answer_in_time_may_answer_the_next_order(start: Start) -> None:
    child = start(ECHO)
    child.ready(PATIENCE_S)
    with pytest.raises(StartError, match=r"the echo does not answer within 0\.1 s"):
        child.call({"text": "late", "after_s": 0.5}, 0.1)
    assert child.call({"text": "next"}, PATIENCE_S) == "next"


def test_close_ends_the_wait_of_another_thread(start: Start) -> None:
    child = start(ECHO)
    child.ready(PATIENCE_S)
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(child.call, {"text": "never", "after_s": 60}, 60)
        time.sleep(0.1)
        child.close()
        with pytest.raises(StartError, match="the echo is closed"):
            call.result(PATIENCE_S)
    with pytest.raises(StartError, match="the echo is closed"):
        child.call({"text": "after"}, PATIENCE_S)


def test_close_lets_the_work_come_to_its_end(start: Start, tmp_path: Path) -> None:
    child = start(yields("0") + f"    open({str(tmp_path / 'ended')!r}, 'w').close()\n")
    child.ready(PATIENCE_S)
    child.close()
    child.close()
    assert (tmp_path / "ended").exists()
    assert not psutil.pid_exists(child.pid)


@pytest.mark.parametrize("stubborn", ["pass", "signal.signal(signal.SIGTERM, signal.SIG_IGN)"])
def test_child_that_does_not_end_with_its_stdin_is_killed(
    start: Start, stubborn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child_module, "END_S", 0.2)
    child = start(yields("0", f"import signal; {stubborn}") + "    time.sleep(3600)\n")
    child.ready(PATIENCE_S)
    child.close()
    assert not psutil.pid_exists(child.pid)


def test_end_is_noticed_though_a_process_that_the_child_has_started_goes_on(start: Start) -> None:
    child = start(yields("subprocess.Popen(['sleep', '60'], stderr=subprocess.DEVNULL).pid"))
    other = psutil.Process(child.ready(PATIENCE_S))
    try:
        os.kill(child.pid, signal.SIGKILL)
        with pytest.raises(StartError, match=r"the process of the echo has ended \(status -9\)"):
            child.call({}, PATIENCE_S)
        assert other.is_running()
    finally:
        other.kill()


def test_what_a_silent_child_prints_is_kept_for_its_last_words(
    start: Start, capfd: pytest.CaptureFixture[str]
) -> None:
    child = start("import os; print('out of memory\\n', flush=True); os._exit(3)", silent=True)
    with pytest.raises(StartError, match=r"the process of the echo has ended: out of memory$"):
        child.ready(PATIENCE_S)
    with pytest.raises(StartError, match=r"has ended: status 3$"):
        start("import os; os._exit(3)", silent=True).ready(PATIENCE_S)
    assert capfd.readouterr() == ("", "")


def test_interpreter_may_lack_labkit(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    other = tmp_path / "python"
    other.symlink_to(sys.executable)
    loaded = "[name for name in sys.modules if name.startswith('labkit')]"
    path = "os.environ.get('PYTHONPATH')"
    neighbour = "importlib.util.find_spec('background')"  # labkit/background.py, beside the program
    child = start(yields(f"[{loaded}, {path}, {neighbour}]", "import importlib.util"), python=str(other))
    assert child.ready(PATIENCE_S) == [[], None, None]
    with pytest.raises(StartError, match="nowhere/python does not start: No such file or directory"):
        start(ECHO, python="nowhere/python")


# What is on the module search path must neither break nor change a child.


def answers(isolation: str) -> None:
    """A server or an engine starts in a process of its own, which obeys an order."""
    if isolation == "engine":
        engine = IsolatedEngine("scripted")
        engine.tune(interval_ms=1)
        engine.close()
    else:
        with labkit.serve("sse", "scripted", isolation="process") as server:
            server.tune(interval_ms=1)


@pytest.mark.parametrize("isolation", ["server", "engine"])
def test_search_path_may_hold_a_path(isolation: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [tmp_path, *sys.path])
    answers(isolation)


@pytest.mark.parametrize("isolation", ["server", "engine"])
def test_module_that_prints_when_python_starts_does_no_harm(
    isolation: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sitecustomize.py").write_text("print('welcome', end='')", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    answers(isolation)
    assert capfd.readouterr() == ("", "welcome")


@pytest.mark.parametrize("listed", [True, False])
def test_file_of_the_current_folder_hides_no_module_of_python(
    listed: bool, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A notebook's folder is the empty string in `sys.path`; a command's folder is not there at all."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    (folder / "html.py").write_text("from pathlib import Path; Path('executed').touch()", encoding="utf-8")
    (folder / "my_server.py").touch()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [""] * listed + [entry for entry in sys.path if entry])
    modules = "[html.__file__, importlib.util.find_spec('my_server') is not None]"
    child = start(yields(modules, "import html, importlib.util"))
    file, has_my_server = child.ready(PATIENCE_S)
    assert Path(file).parent.name == "html"
    assert has_my_server is listed
    answers("server")
    assert not (folder / "executed").exists()


def test_server_of_a_notebook_s_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "server_of_mine.py").write_text(
        "from servers.sse import create as of_sse\n" + MINE, encoding="utf-8"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    import server_of_mine  # type: ignore[import-not-found]

    with labkit.serve(server_of_mine, "scripted", isolation="process") as server:
        assert server.running
    monkeypatch.delitem(sys.modules, "server_of_mine")


MINE = """
def create(service):
    return of_sse(service)
"""


def test_error_of_a_server_of_one_s_own_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken_server.py").write_text(
        "def create(service):\n    raise OSError('no such port')\n", encoding="utf-8"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import broken_server  # type: ignore[import-not-found]

    with pytest.raises(LabkitError) as error:
        labkit.serve(broken_server, "scripted", isolation="process")
    assert str(error.value) == "the broken_server server: OSError: no such port (broken_server.py, line 2)"
    assert capfd.readouterr() == ("", "")
