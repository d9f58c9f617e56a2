"""How much memory processes take, asked of the system as cheaply as that goes."""

import os
from collections.abc import Iterable
from pathlib import Path

PROC = Path("/proc")


def resident_bytes(pids: Iterable[int]) -> int:
    """Return the memory that the processes hold, in bytes; 0 where the system does not tell without effort."""
    total = 0
    for pid in pids:
        try:
            pages = int((PROC / str(pid) / "statm").read_text().split()[1])
        except (OSError, ValueError, IndexError):
            continue
        total += pages * os.sysconf("SC_PAGE_SIZE")
    return total
