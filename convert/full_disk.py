"""A full disk is a sentence."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from datasets_cfg.errors import BadInput


@contextmanager
def full_disk_is_bad_input(out: Path) -> Iterator[None]:
    """Turn the system's error of a full disk into `BadInput`; `out` is what is being written."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        there = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
        free = shutil.disk_usage(there).free
        raise BadInput(
            f"the disk of {out} is full ({free / 1e9:.1f} GB free); free some space or choose another"
        ) from None
