"""The machine that figures depend on, its load and its packages' versions; the CPU time of a process."""

import os
import platform
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

PACKAGES = (
    "labkit",
    "fastapi",
    "grpcio",
    "httpx",
    "msgspec",
    "protobuf",
    "sse-starlette",
    "torch",
    "uvicorn",
    "uvloop",
    "websockets",
)


@dataclass(frozen=True)
class Machine:
    """A description to publish beside the figures, so it holds no names of hosts or users and no paths."""

    cpu: str
    cores: int
    memory_gib: float
    system: str
    python: str
    load_average: list[float]
    versions: dict[str, str] = field(default_factory=dict)


def describe() -> Machine:
    """This machine, with its load as it is now."""
    return Machine(
        cpu=cpu_model(),
        cores=os.cpu_count() or 1,
        memory_gib=round(psutil.virtual_memory().total / 2**30, 1),
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        load_average=[round(load, 2) for load in psutil.getloadavg()],
        versions=versions(PACKAGES),
    )


def versions(packages: Iterable[str]) -> dict[str, str]:
    """The versions of these packages; one that is not installed is left out."""
    installed: dict[str, str] = {}
    for package in packages:
        try:
            installed[package] = version(package)
        except PackageNotFoundError:
            continue
    return installed


@cache
def cpu_model() -> str:
    """The processor's name, or its architecture where the system does not name it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model")))
    return next(names, "") or platform.processor() or platform.machine()


def cpu_s(pid: int) -> float:
    """CPU seconds of a process so far, in all its threads and in the kernel for it."""
    try:
        # Linux's number of a process's CPU clock. It counts nanoseconds; `cpu_times` counts ticks of 10 ms.
        return time.clock_gettime((~pid << 3) | 2)
    except (OSError, AttributeError):
        times = psutil.Process(pid).cpu_times()
        return float(times.user + times.system)


def clock_is_fine() -> bool:
    """Whether `cpu_s` has a finer unit than a scheduler's tick of 10 ms."""
    try:
        return time.clock_gettime((~os.getpid() << 3) | 2) > 0
    except (OSError, AttributeError):
        return False
