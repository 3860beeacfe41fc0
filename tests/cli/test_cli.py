"""The command line as a person uses it: real commands, their output, exit status and end."""

import asyncio
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import EntryPoint
from pathlib import Path

import httpx
import pytest
from support import PATIENCE_S, ask, command, connect, free_port, thread_server

from labkit import interfaces
from labkit.cli import doctor, lab
from labkit.cli.home import VARIABLES
from labkit.engine import ENGINES
from labkit.errors import LabkitError, StartError

SLOW = "scripted:tokens=4000,interval_ms=20"


@contextmanager
def running(*arguments: str) -> "Iterator[subprocess.Popen[bytes]]":
    """A command that does not end by itself; the context's end kills it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "labkit", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def first_line(process: "subprocess.Popen[bytes]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().decode()


def url_in(line: str) -> str:
    url = re.search(r"\w+://127\.0\.0\.1:\d+", line)
    assert url, line
    return url[0]


def assert_one_line(result: "subprocess.CompletedProcess[str]", *words: str) -> None:
    assert result.returncode == 2
    assert result.stderr.startswith("labkit: ")
    assert result.stderr.count("\n") == 1
    for word in words:
        assert word in result.stderr


def test_help_lists_the_interfaces_and_engines_of_the_registries() -> None:
    assert command("--version").stdout.startswith("labkit ")
    result = command("--help")
    assert result.returncode == 0
    for name in [*interfaces.names(), *ENGINES]:
        assert name in result.stdout


def test_the_command_line_imports_neither_torch_nor_a_wire_library() -> None:
    heavy = "{'torch', 'grpc', 'fastapi', 'websockets', 'httpx', 'servers', 'clients'}"
    code = f"import labkit.cli.app, sys; print({heavy} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serve_ends_cleanly_with_an_open_stream_and_frees_its_port(
    interface: str, number: signal.Signals
) -> None:
    if number is signal.SIGTERM and interface != interfaces.names()[0]:
        pytest.skip("one interface is enough: serve handles both signals alike for all")
    with running("serve", interface, "--port", "0", "--engine", SLOW) as process:
        url = url_in(first_line(process))
        ending = asyncio.run(_reader_of(interface, url, process, number))
        _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0
    assert errors == b""
    assert ending != "length"
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", int(url.rpartition(":")[2])))


async def _reader_of(
    interface: str, url: str, process: "subprocess.Popen[bytes]", number: signal.Signals
) -> str:
    """Open a stream, send the signal while it runs, and return how the stream ended."""
    async with connect(interface, url) as client:
        reading = asyncio.ensure_future(client.record(ask(4000)))
        await asyncio.wait([reading], timeout=0.5)
        assert not reading.done()
        process.send_signal(number)
        try:
            end = (await asyncio.wait_for(reading, PATIENCE_S)).end
        except LabkitError as error:
            return error.code
    return getattr(end, "code", "") or getattr(end, "reason", "")


@pytest.mark.parametrize("where", ["", "process:"])
def test_serve_says_at_once_that_the_endpoint_behind_it_is_dead_and_serves_on(where: str) -> None:
    dead = f"http://127.0.0.1:{free_port()}/v1"
    with running("serve", "sse", "--port", "0", "--engine", f"{where}openai:{dead},model=any") as process:
        url = url_in(first_line(process))
        assert process.stderr is not None
        line = process.stderr.readline().decode()
        assert line.startswith(f"labkit: cannot connect to {dead}: is the server running?")
        assert_one_line(command("stream", "sse", "hi", "--url", url), f"cannot connect to {dead}")
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, errors) == (0, b"")


def test_stream_names_the_url_that_does_not_answer(interface: str) -> None:
    with thread_server(interface, "scripted") as server:
        url = server.url
    assert_one_line(command("stream", interface, "hi", "--url", url), interface, f"cannot connect to {url}")


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here")
def test_the_example_that_serve_prints_can_be_pasted(interface: str) -> None:
    with running("serve", interface, "--port", "0", "--engine", "scripted:tokens=3,interval_ms=0") as process:
        url = url_in(first_line(process))
        example = next(line.decode().strip() for line in iter(process.stdout.readline, b"") if line.strip())  # type: ignore[union-attr]
        assert url in example
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        pasted = subprocess.run(
            example,
            shell=True,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            env={**os.environ, "PATH": path},
        )
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=PATIENCE_S)
    assert pasted.returncode == 0
    assert "quick" in pasted.stdout


def test_a_port_in_use_is_one_line(interface: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert_one_line(command("serve", interface, "--port", port, "--engine", "scripted"), port, "in use")


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["serve", "pigeon"], "no interface 'pigeon': there are"),
        (["stream", "pigeon", "x"], "no interface 'pigeon'"),
        (["stream", "sse", "x", "--engine", "steam"], "no engine 'steam': there are tiny, scripted"),
        (["serve", "sse", "--engine", "scripted:speed=9"], "no option 'speed'"),
        (["serve", "sse", "--engine", "scripted:tokens=many"], "valid integer"),
        (["serve", "sse", "--engine", "scripted", "--flush", "never"], "use token, tokens:N"),
        (["stream", "sse", "x", "--temperature", "9"], "temperature"),
        (["stream", "sse", "x", "--url", "localhost:1"], "scheme"),
        (["stream", "sse", "x", "--url", "http://127.0.0.1:9"], "sse"),
        (["stream", "sse", "x", "--engine", "scripted:fail_after=2"], "scripted to fail"),
        (["compare", "--interfaces", "sse,pigeon", "--engine", "scripted"], "pigeon"),
        (["compare", "--engine", "scripted:fail_after=2", "--isolation", "thread"], "scripted to fail"),
        (["compare", "--json", "no/such/folder/x.json"], "no such folder"),
        (["bench", "memory", "--interfaces", "pigeon"], "pigeon"),
        (["bench", "speed"], "no benchmark 'speed'"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], word: str) -> None:
    assert_one_line(command(*arguments), word)


def test_stream_prints_text_on_stdout_and_its_figures_on_stderr(interface: str) -> None:
    result = command(
        "stream", interface, "hi", "--engine", "scripted:tokens=12,interval_ms=1", "--tokens", "6"
    )
    assert result.returncode == 0
    assert result.stdout == "the quick brown fox jumps over \n"
    assert re.fullmatch(r"TTFT [\d.,]+ ms, 6 tokens(, [\d.,]+ tokens/s)?, length\n", result.stderr)


@pytest.mark.parametrize(("flag", "shown"), [("--echo", "Once [b] upon a 🦊 "), ("--no-echo", "")])
def test_stream_prints_the_prompt_that_the_answer_continues(flag: str, shown: str) -> None:
    result = command("stream", "sse", "Once [b] upon a 🦊 ", "--engine", "scripted:tokens=3", flag)
    assert (result.returncode, result.stdout) == (0, f"{shown}the quick brown \n")


def test_a_refused_prompt_is_not_printed() -> None:
    assert command("stream", "sse", "hi", "--url", "http://127.0.0.1:9", "--echo").stdout == ""


@pytest.mark.parametrize("locale", [{"PYTHONIOENCODING": "cp1252"}, {"PYTHONIOENCODING": "ascii"}])
def test_stream_shows_the_rest_where_a_terminal_lacks_a_character(locale: dict[str, str]) -> None:
    arguments = ["stream", "sse", "a 🦊", "--engine", "scripted:tokens=3", "--echo"]
    result = subprocess.run(
        [sys.executable, "-m", "labkit", *arguments],
        capture_output=True,
        timeout=PATIENCE_S,
        env={**os.environ, **locale},
    )
    assert result.returncode == 0 and b"Traceback" not in result.stderr
    assert result.stdout.startswith(b"a ") and b"the quick brown" in result.stdout


def test_stream_prints_into_a_pipe_while_tokens_arrive() -> None:
    with running("stream", "sse", "hi", "--engine", "scripted:tokens=40,interval_ms=50") as process:
        assert process.stdout is not None
        first = os.read(process.stdout.fileno(), 65_536)
        still_running = process.poll() is None
        rest, _ = process.communicate(timeout=PATIENCE_S)
    assert still_running
    assert 0 < len(first) < len(rest) / 4


def test_an_interrupt_stops_the_generation_silently() -> None:
    with running("serve", "sse", "--port", "0", "--engine", SLOW) as server:
        url = url_in(first_line(server))
        with running("stream", "sse", "hi", "--tokens", "4000", "--url", url) as process:
            assert process.stdout is not None
            os.read(process.stdout.fileno(), 1)
            assert _open_streams(url) == 1
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 130
        assert errors == b""
        asyncio.run(_until_open(url, 0))


def _open_streams(url: str) -> int:
    return int(httpx.get(f"{url}/health", timeout=PATIENCE_S, trust_env=False).json()["open_streams"])


async def _until_open(url: str, count: int) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while _open_streams(url) != count:
            await asyncio.sleep(0.05)


def test_a_reader_that_closes_the_pipe_ends_the_stream_silently() -> None:
    with running("stream", "sse", "hi", "--engine", SLOW, "--tokens", "4000") as process:
        assert process.stdout is not None
        process.stdout.read(3)
        process.stdout.close()
        assert process.wait(PATIENCE_S) == 141
        assert process.stderr is not None and process.stderr.read() == b""
        process.stdout = None


@pytest.mark.parametrize("home", ["here", "nowhere"])
def test_lab_serves_the_first_chapter_until_it_is_interrupted(
    home: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if home == "nowhere":
        (tmp_path / "file").touch()
        monkeypatch.setenv("HOME", f"{tmp_path}/file/home")
        for name in VARIABLES:
            monkeypatch.delenv(name, raising=False)
    with running("lab", "--no-browser", "--port", "18888") as process:
        line = first_line(process)
        assert "/lab/tree/notebooks/00" in line
        page = httpx.get(line[line.index("http") :].strip(), timeout=PATIENCE_S, trust_env=False)
        assert page.status_code == 200
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0


def test_lab_without_notebooks_says_so(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="clone"):
        lab.find_chapter(tmp_path)


def test_lab_listens_on_this_machine_only_and_allows_root_where_it_must(tmp_path: Path) -> None:
    assert "--ServerApp.ip=127.0.0.1" in lab.jupyter_command(tmp_path, 8888, as_root=False)
    assert "--allow-root" not in lab.jupyter_command(tmp_path, 8888, as_root=False)
    assert "--allow-root" in lab.jupyter_command(tmp_path, 8888, as_root=True)
    assert not lab.has_screen({}, "linux")
    assert lab.has_screen({"WAYLAND_DISPLAY": "wayland-0"}, "linux")


def test_serve_takes_the_stream_limit() -> None:
    with running("serve", "rest", "--port", "0", "--engine", SLOW, "--max-streams", "1") as process:
        url = url_in(first_line(process))
        with running("stream", "rest", "hi", "--tokens", "4000", "--url", url):
            asyncio.run(_until_open(url, 1))
            assert_one_line(command("stream", "rest", "hi", "--url", url), "all places are taken (1)")


def test_doctor_finds_everything_here() -> None:
    result = command("doctor")
    assert result.returncode == 0, result.stdout
    for name in ("torch", "weights", *interfaces.names()):
        assert name in result.stdout


def test_doctor_fails_and_names_an_interface_that_cannot_be_imported() -> None:
    points = {"labkit.servers": [EntryPoint("pigeon", "nowhere.pigeon:create", "labkit.servers")]}
    servers, pigeon = doctor.doors(points)
    assert (servers.name, servers.state) == ("servers", "missing")
    assert (pigeon.name, pigeon.state) == ("servers: pigeon", "missing")
    assert "No module named 'nowhere'" in pigeon.detail


def test_doctor_says_what_is_absent_without_a_program() -> None:
    assert [check.state for check in doctor.programs(lambda name: None)] == ["absent", "absent"]
    checks = doctor.programs(lambda name: f"/usr/bin/{name}")
    assert [(check.state, check.detail) for check in checks] == [("ok", "chromium"), ("ok", "node")]


def test_doctor_names_a_missing_package_and_how_to_get_it() -> None:
    requirements = ["torch", "bqplot>=0.12", "uvloop; sys_platform != 'win32'", "mypy; extra == 'dev'"]
    checks = doctor.packages({"torch": "2.0+cpu"}, requirements, {"uvloop": "0.22.1", "torch": "2.1"})
    states = {check.name: check.state for check in checks}
    assert states == {"torch": "ok", "bqplot": "absent", "uvloop": "missing"}
    by_name = {check.name: check for check in checks}
    assert by_name["uvloop"].remedy == "pip install uvloop==0.22.1"
    assert "tested with 2.1" in by_name["torch"].detail
    assert not doctor.can_run(checks)
    assert doctor.can_run([check for check in checks if check.name != "uvloop"])


def test_doctor_finds_weights_that_are_missing_or_cut_short(tmp_path: Path) -> None:
    assert [check.state for check in doctor.weights(tmp_path)] == ["missing"]
    (tmp_path / "tokenizer.json").write_text("{}", encoding="utf-8")
    whole = (doctor.WEIGHTS / "text.safetensors").read_bytes()
    for size, state in ((len(whole), "ok"), (len(whole) // 2, "missing"), (0, "missing")):
        (tmp_path / "text.safetensors").write_bytes(whole[:size])
        assert [check.state for check in doctor.weights(tmp_path)] == [state]


def test_a_terminal_without_unicode_shows_the_rest() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "labkit", "doctor"],
        capture_output=True,
        timeout=PATIENCE_S,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert (result.returncode, result.stderr) == (0, b"")
    assert b"the core can run" in result.stdout
