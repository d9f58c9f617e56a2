"""The limits that Linux sets to groups of processes, such as containers, in both versions of its interface."""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

ROOT = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")
# Version 1 writes "no limit" as the highest multiple of a page.
UNLIMITED = 2**60


def cpu_quota() -> float | None:
    """Return the CPU time that is granted for each second of real time, or None where there is no limit."""
    quotas = []
    for folder in _folders("cpu"):
        words = _read(folder / "cpu.max").split() or [
            _read(folder / "cpu.cfs_quota_us"),
            _read(folder / "cpu.cfs_period_us"),
        ]
        numbers = [int(word) for word in words if word.isdecimal()]
        if len(numbers) == 2 and numbers[1]:
            quotas.append(numbers[0] / numbers[1])
    return min(quotas, default=None)


def memory_limits() -> list[tuple[int, int]]:
    """Return each limit of memory that holds for this process and what counts towards it now, in bytes.

    What the group's files keep in the page cache does not count: it makes room by itself.
    """
    limits = []
    for folder in _folders("memory"):
        for limit_file, used_file, cache_key in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            limit, used = _read(folder / limit_file), _read(folder / used_file)
            if limit.isdecimal() and int(limit) < UNLIMITED and used.isdecimal():
                kept = dict(line.split() for line in _read(folder / "memory.stat").splitlines() if line.count(" ") == 1)
                cached = kept.get(cache_key, "0")
                limits.append((int(limit), max(0, int(used) - (int(cached) if cached.isdecimal() else 0))))
    return limits


def _folders(controller: str) -> Iterator[Path]:
    """Yield the folders of the groups that this process is in, from the innermost to the outermost.

    In a container a group's path may be that of the host, where only its root is to be seen here.
    """
    for line in _read(OWN).splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controller in controllers.split(","):
            mounts = [ROOT / controller]
        elif number == "0" and not controllers:
            mounts = [ROOT, ROOT / "unified"]
        else:
            continue
        inner = PurePosixPath(path.strip("/"))
        for mount in mounts:
            yield from (mount / part for part in (inner, *inner.parents))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
