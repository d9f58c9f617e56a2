"""What this machine leaves to this process: cores and memory."""

import ctypes
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from .cgroup import cpu_quota, memory_limits

CPUS = Path("/sys/devices/system/cpu")
MEMINFO = Path("/proc/meminfo")
MAC_TIMEOUT_SECONDS = 2.0


class Memory(NamedTuple):
    """How many bytes there are in all, and how many could be taken now without pushing anything out."""

    total: int
    available: int


def usable_cores() -> int:
    """Return the number of physical cores that affinity and cgroup leave to this process, at least 1.

    Two hardware threads of one core share its arithmetic, so a second compute thread there only costs time.
    """
    try:
        allowed = os.sched_getaffinity(0)
    except AttributeError:  # not Linux
        allowed = set(range(os.cpu_count() or 1))
    cores, quota = {_siblings(cpu) for cpu in allowed}, cpu_quota()
    return max(1, len(cores) if quota is None else min(len(cores), int(quota)))


def usable_memory() -> Memory | None:
    """Return the memory that the machine and its cgroup leave to this process, or None where nobody tells."""
    machine = {"linux": _linux_memory, "darwin": _mac_memory, "win32": _windows_memory}.get(
        sys.platform, lambda: None
    )()
    if machine is None:
        return None
    total, available = machine
    for limit, used in memory_limits():
        total, available = min(total, limit), min(available, max(0, limit - used))
    return Memory(total, available)


def _siblings(cpu: int) -> str:
    try:
        return (CPUS / f"cpu{cpu}/topology/thread_siblings_list").read_text().strip()
    except OSError:
        return str(cpu)


def _linux_memory() -> Memory | None:
    try:
        lines = MEMINFO.read_text().splitlines()
        kilobytes = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
        # MemAvailable is missing before Linux 3.14.
        available = kilobytes.get("MemAvailable", kilobytes["MemFree"])
        return Memory(kilobytes["MemTotal"] * 1024, available * 1024)
    except (OSError, ValueError, LookupError):
        return None


def _mac_memory() -> Memory | None:
    try:
        total = int(_output("sysctl", "-n", "hw.memsize"))
        return Memory(total, min(total, _pages_to_take(_output("vm_stat"))))
    except (OSError, ValueError, LookupError, subprocess.SubprocessError):
        return None


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=MAC_TIMEOUT_SECONDS, check=True).stdout


def _pages_to_take(report: str) -> int:
    """Return the bytes that vm_stat reports as free, or as given back when somebody asks."""
    page = int(re.search(r"page size of (\d+) bytes", report)[1]) if "page size of" in report else 4096
    pages = {name: int(count) for name, count in re.findall(r"Pages ([\w ]+): +(\d+)\.", report)}
    return page * sum(pages.get(name, 0) for name in ("free", "inactive", "speculative", "purgeable"))


class _MemoryStatus(ctypes.Structure):
    """Windows' MEMORYSTATUSEX."""

    _fields_ = (
        ("length", ctypes.c_uint32),
        ("load", ctypes.c_uint32),
        *((name, ctypes.c_uint64) for name in ("total", "available", *(f"field{number}" for number in range(5)))),
    )


def _windows_memory() -> Memory | None:
    status = _MemoryStatus(length=ctypes.sizeof(_MemoryStatus))
    if not ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)):
        return None
    return Memory(status.total, status.available)
