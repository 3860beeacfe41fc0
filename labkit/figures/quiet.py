"""How quiet the machine was while something was measured: the share of the cores that others used."""

import os
import time
from typing import Any

import psutil

QUIET = 0.1
"""Up to this share, a figure tells about the measured code and not about the neighbours."""


class Neighbours:
    """Counts, from its creation on, what others use of the cores that this process may run on.

        neighbours = Neighbours()
        ...                     # measure
        neighbours.share()      # 0.43: others used 43 % of these cores

    "Others" excludes this process and its children, and includes the time that a hypervisor gives to other
    machines ("steal"). `/proc/stat` counts in steps of 10 ms, so a share is reliable after half a second.
    """

    def __init__(self) -> None:
        self._began_s, self._before_s = time.monotonic(), _cpu_s_of_others()

    def seconds(self) -> float:
        """The seconds since its creation."""
        return time.monotonic() - self._began_s

    def share(self) -> float:
        """The share of the cores that others used, from 0 to 1."""
        used_s = _cpu_s_of_others() - self._before_s
        available_s = self.seconds() * len(_cores())
        return min(1.0, max(0.0, used_s / available_s)) if available_s else 0.0


def _cores() -> list[int]:
    """The numbers of the cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _cpu_s_of_others() -> float:
    every = psutil.cpu_times(percpu=True)
    used_s = sum(_busy_s(every[core]) for core in _cores() if core < len(every))
    return used_s - _own_cpu_s()


def _busy_s(times: Any) -> float:
    """The seconds of work in a core's times (psutil's named tuple, which differs by system)."""
    # A guest's time is in `user` and `nice` too.
    resting = ("idle", "iowait", "guest", "guest_nice")
    return float(sum(times) - sum(getattr(times, name, 0.0) for name in resting))


def _own_cpu_s() -> float:
    """CPU seconds of this process and its children, those that have ended included."""
    ended = os.times()
    own_s = time.process_time() + ended.children_user + ended.children_system
    for child in psutil.Process().children(recursive=True):
        try:
            times = child.cpu_times()
        except psutil.NoSuchProcess:
            continue
        own_s += times.user + times.system + times.children_user + times.children_system
    return own_s
