"""Somebody's package adds an interface: one server file, one client file, two entry points, no edit here."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from support import PATIENCE_S

ROOT = Path(__file__).parent.parent

PYPROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "toy"
version = "0.1"

[project.entry-points."labkit.servers"]
jsonlines = "toy.server:create"

[project.entry-points."labkit.clients"]
jsonlines = "toy.client:JSONLinesClient"

[tool.hatch.build.targets.wheel]
packages = ["toy"]
"""

SERVER = '''
"""Tokens as JSON lines over HTTP."""

from typing import Annotated

from fastapi import Body, Request
from fastapi.responses import StreamingResponse

from labkit.wire import native
from labkit.web.app import application, caller
from labkit.web.listener import AsgiListener
from labkit.events import GenerateRequest
from labkit.service.service import Service


def create(service: Service) -> AsgiListener:
    app = application(service, "JSON lines")

    @app.post("/generate")
    async def generate(body: Annotated[GenerateRequest, Body()], request: Request):
        delivery = service.generate(body, caller(request))
        return StreamingResponse(lines(delivery), media_type="application/x-ndjson")

    return AsgiListener(app)


async def lines(delivery):
    try:
        async for group in delivery:
            yield b"".join(native.to_json(event) + b"\\n" for event in group.written())
    finally:
        await delivery.aclose()
'''

CLIENT = '''
"""Reads JSON lines."""

import time

import httpx

from labkit.web import http
from labkit.wire import native
from labkit.client import Chunk, Client


class JSONLinesClient(Client):
    name = "jsonlines"
    lacks = frozenset({"stamps"})

    def __init__(self, url):
        super().__init__(url)
        self._http = http.pooled(url)

    async def chunks(self, request):
        rest = b""
        body = native.request_to_json(request.model_copy(update={"stamps": False}))
        try:
            async with self._http.stream("POST", "/generate", content=body) as response:
                if not response.is_success:
                    raise http.refusal(response, await response.aread())
                async for data in response.aiter_raw():
                    received = time.monotonic_ns()
                    *lines, rest = (rest + data).split(b"\\n")
                    if lines:
                        yield Chunk(received, [native.event_from_json(line) for line in lines])
        except httpx.TransportError as error:
            raise http.lost(self, error) from error

    async def aclose(self):
        await self._http.aclose()
'''


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment in which the toy package is installed, from a temporary directory."""
    folder = tmp_path_factory.mktemp("toy")
    (folder / "toy").mkdir()
    (folder / "pyproject.toml").write_text(PYPROJECT, encoding="utf-8")
    (folder / "toy" / "__init__.py").touch()
    (folder / "toy" / "server.py").write_text(SERVER, encoding="utf-8")
    (folder / "toy" / "client.py").write_text(CLIENT, encoding="utf-8")
    site = folder / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*install, "--target", str(site), str(folder)], check=True)
    return {**os.environ, "PYTHONPATH": str(site)}


def run(environment: dict[str, str], *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *command],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=500,
    )


def test_compare_takes_it_up(environment: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    options = ["--engine", "scripted:tokens=20,interval_ms=1", "--repeat", "1", "--json", str(out)]
    result = run(environment, "labkit", "compare", *options)
    assert result.returncode == 0, result.stderr
    assert "jsonlines" in result.stdout
    assert json.loads(out.read_text(encoding="utf-8"))["parameters"]["interfaces"][-1] == "jsonlines", (
        "it claims no rank"
    )


def test_the_benchmarks_take_it_up(environment: dict[str, str]) -> None:
    """The transport benchmark drains it by its own client; the ruler passes it over, for it has no stamps."""
    options = ["--quick", "--interfaces", "jsonlines", "--engine", "scripted"]
    transport = run(environment, "labkit", "bench", "transport", *options)
    ruler = run(environment, "labkit", "bench", "ruler", *options)
    assert "jsonlines" in transport.stdout, transport.stderr
    assert ruler.returncode == 0, ruler.stderr
    assert "jsonlines" not in ruler.stdout


def test_stream_serves_and_reads_it(environment: dict[str, str]) -> None:
    result = run(
        environment, "labkit", "stream", "jsonlines", "count", "--engine", "scripted:tokens=4,interval_ms=0"
    )
    assert result.stdout.strip() == "the quick brown fox"


def test_serve_serves_it(environment: dict[str, str]) -> None:
    command = [
        sys.executable,
        "-m",
        "labkit",
        "serve",
        "jsonlines",
        "--port",
        "0",
        "--engine",
        "scripted:tokens=3",
    ]
    with subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = re.search(r"http://[\d.]+:\d+", process.stdout.readline())
        assert url is not None
        process.stdout.readline()
        example = process.stdout.readline().strip()
        assert example == f"labkit stream jsonlines 'Once upon a time' --url {url[0]}"
        lines = httpx.post(f"{url[0]}/generate", json={"prompt": "count"}, trust_env=False).text.splitlines()
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_S) == 0
    assert [json.loads(line)["type"] for line in lines] == ["started", "token", "token", "token", "finished"]


def test_the_contract_test_takes_it_up(environment: dict[str, str]) -> None:
    result = run(
        environment,
        "pytest",
        "tests/contract/test_contract.py",
        "-k",
        "jsonlines",
        "-q",
        "-p",
        "no:cacheprovider",
    )
    assert result.returncode == 0, result.stdout[-3000:]
    assert " passed" in result.stdout
    assert "jsonlines carries no stamps" in result.stdout
