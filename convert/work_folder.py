"""A folder in which files are made, and from which they get their names only when all of them are right."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from datasets_cfg.errors import BadInput
from datasets_cfg.files import check_free, remove, unusable_is_bad_input

from .full_disk import full_disk_is_bad_input

_NAME = ".convert.partial"


@contextmanager
def work_folder(out: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yield an empty hidden folder in `out`, from which a rename is atomic; what a killed run left is removed first.

    Raises:
        BadInput: `out` is in use or not free, cannot be written, or its disk is full.
    """
    with unusable_is_bad_input(out):
        check_free(out, overwrite=overwrite or _only_left_over(out))
        created = not out.exists()
        out.mkdir(parents=True, exist_ok=True)
        handle = _locked(out)
    work = out / _NAME
    try:
        with unusable_is_bad_input(out):
            remove(work)
            work.mkdir()
        try:
            with full_disk_is_bad_input(out):
                yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)
            if created and not any(out.iterdir()):
                out.rmdir()
    finally:
        os.close(handle)


def _locked(folder: Path) -> int:
    """An open handle of the folder with a lock on it, which lasts until it is closed."""
    try:
        import fcntl
    except ImportError:
        raise BadInput(
            f"{folder} cannot be locked, because this system has no locks of folders; on Windows, convert inside WSL"
        ) from None
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise BadInput(f"another conversion is writing into {folder}; wait for it or choose another folder") from None
    except BaseException:
        os.close(handle)
        raise
    return handle


def _only_left_over(out: Path) -> bool:
    return out.is_dir() and [path.name for path in out.iterdir()] == [_NAME]
