"""What labkit logs: one line for a failure, nothing on stderr, nothing about a peer that has gone."""

import asyncio
import logging
import subprocess
import sys

import pytest
from support import ByHand, Watched, ask, connect, http_borne, outcomes, thread_server, until

from labkit.background import LoopThread
from labkit.engine.text_stream import TokenStream
from labkit.errors import EngineFailed
from labkit.events import GenerateRequest
from labkit.launch import threaded
from labkit.log import adopt, failure, one_line

LOG = logging.getLogger("labkit.test")


def raised(error: BaseException) -> BaseException:
    """The same error with a place where it was raised."""
    try:
        raise error
    except BaseException as caught:
        return caught


class Unwilling(ByHand):
    """An engine that breaks when it is asked."""

    def submit(self, request: GenerateRequest) -> TokenStream:
        raise ZeroDivisionError("first line\nsecond line")


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_failure_is_one_line_and_its_traceback_waits_at_debug(caplog: pytest.LogCaptureFixture) -> None:
    error = raised(ValueError("first line\nsecond line"))
    assert one_line(error).startswith("ValueError: first line (test_log.py, line ")
    assert one_line(KeyError()) == "KeyError"
    failure(LOG, "the thing", error)
    assert lines(caplog) == [f"the thing: {one_line(error)}"]
    assert "Traceback" not in caplog.text
    caplog.set_level(logging.DEBUG, "labkit")
    failure(LOG, "the thing", error)
    assert "Traceback" in caplog.text


def test_another_library_s_records_become_lines_of_labkit_s(caplog: pytest.LogCaptureFixture) -> None:
    adopt("foreign")
    other = logging.getLogger("foreign.part")
    other.error("Exception in ASGI application\n", exc_info=raised(ValueError("x")))
    other.error("no %s\n", "error")
    for gone in (asyncio.CancelledError(), ConnectionResetError(), RuntimeError("…; the handler is closed")):
        other.error("Exception in ASGI application\n", exc_info=raised(gone))
    first, second = lines(caplog)
    assert first.startswith("Exception in ASGI application: ValueError: x (test_log.py, line ")
    assert second == "no error"
    assert {record.name for record in caplog.records} == {"labkit.foreign"}


async def test_what_no_task_handles_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    thread = LoopThread("labkit-test")

    def broken() -> None:
        raise ZeroDivisionError("nobody catches this")

    thread.loop.call_soon_threadsafe(broken)
    await until(lambda: lines(caplog), "a line")
    thread.close()
    (line,) = lines(caplog)
    assert "ZeroDivisionError: nobody catches this" in line and "\n" not in line
    assert "Traceback" not in caplog.text


async def test_an_engine_that_breaks_when_asked_is_one_line(
    interface: str, caplog: pytest.LogCaptureFixture
) -> None:
    with thread_server(interface, Unwilling()) as server:
        async with connect(interface, server) as client:
            (end,) = await outcomes([asyncio.create_task(client.record(ask(3)))])
    assert isinstance(end, EngineFailed) or getattr(end, "end", None) is not None
    (line,) = lines(caplog)
    assert "ZeroDivisionError: first line (test_log.py" in line
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("interface", http_borne())
async def test_a_loop_that_closes_under_open_answers_is_silent(
    interface: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """As where a busy notebook leaves no time for a farewell: uvicorn calls each such end an exception."""
    monkeypatch.setattr(threaded, "STOP_S", 0.0)
    engine = Watched(tokens=60_000)
    with thread_server(interface, engine) as server:
        async with connect(interface, server) as client:
            asking = [asyncio.create_task(client.record(ask(60_000))) for _ in range(4)]
            await engine.all_have_begun()
            await asyncio.to_thread(server.stop)
            for task in asking:
                task.cancel()
            await outcomes(asking)
    assert lines(caplog) == []
    assert capfd.readouterr().err == ""


def test_grpc_s_word_to_a_loop_that_has_closed_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("asyncio")
    for where in ("PollerCompletionQueue._handle_events", "mine"):
        log.error("Exception in callback %s", where, exc_info=raised(RuntimeError("Event loop is closed")))
    assert lines(caplog) == ["Exception in callback mine"]


def test_without_a_handler_nothing_reaches_stderr() -> None:
    code = "import labkit, logging; logging.getLogger('labkit.x').error('a line')"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (result.stdout, result.stderr) == ("", "")
