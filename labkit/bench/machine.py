"""What figures depend on: the machine and its load, the versions; and the CPU time of another process."""

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
    """No names and no paths: it is meant to be published beside the figures."""

    cpu: str
    cores: int
    memory_gib: float
    system: str
    python: str
    load_average: list[float]
    versions: dict[str, str] = field(default_factory=dict)


def describe() -> Machine:
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
    """The versions of those packages that are installed."""
    found: dict[str, str] = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


@cache
def cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model")))
    return next(names, "") or platform.processor() or platform.machine()


def cpu_s(pid: int) -> float:
    """CPU seconds that a process has used so far, its threads and the kernel's work for it included."""
    try:
        # Linux numbers the CPU clock of any process so; it counts nanoseconds, where `cpu_times` has ticks.
        return time.clock_gettime((~pid << 3) | 2)
    except (OSError, AttributeError):
        times = psutil.Process(pid).cpu_times()
        return float(times.user + times.system)


def clock_is_fine() -> bool:
    """Whether `cpu_s` counts finer than the 10 ms of a scheduler's tick."""
    try:
        return time.clock_gettime((~os.getpid() << 3) | 2) > 0
    except (OSError, AttributeError):
        return False
