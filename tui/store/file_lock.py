"""One process at a time: a lock that the operating system lets go of when its holder dies."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

WAIT_SECONDS = 60.0
PAUSE_SECONDS = 0.02


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file at `path`, which is made where it is missing and stays.

    Raises:
        OSError: the file cannot be made.
        TimeoutError: another process held it for `WAIT_SECONDS`.
    """
    with path.open("ab") as file:
        _take(file, path)
        yield  # closing the file lets go of it


def _take(file, path: Path) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not _try(file):
        if time.monotonic() > deadline:
            raise TimeoutError(f"another program has held {path} for {WAIT_SECONDS:.0f} seconds")
        time.sleep(PAUSE_SECONDS)


def _try(file) -> bool:
    try:
        if fcntl:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            import msvcrt

            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    except (BlockingIOError, PermissionError):
        return False
    return True
