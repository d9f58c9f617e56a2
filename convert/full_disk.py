"""What cannot be written, for want of room or of permission, is a sentence."""

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from datasets_cfg.errors import BadInput

_FULL = (errno.ENOSPC, errno.EDQUOT)
_REFUSED = (errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG)
# How numpy's `tofile` tells that the system took fewer items than it was given; such an error has no number.
_SHORT = re.compile(r"(\d+) requested and (\d+) written")


@contextmanager
def full_disk_is_bad_input(out: Path) -> Iterator[None]:
    """Turn the system's refusals to write into `BadInput`; `out` is what is being written.

    These are a full disk, a write that was cut short, a file larger than the system allows, a name longer than it
    allows, and missing permissions. Other errors of the system are raised as they are.
    """
    try:
        yield
    except OSError as error:
        if sentence := cannot_write(out, error):
            raise BadInput(sentence) from None
        raise


def cannot_write(out: Path, error: OSError) -> str | None:
    """The sentence of `full_disk_is_bad_input`, or None if the error is another."""
    if error.errno in _FULL:
        return f"the disk of {out} is full ({_free(out)} free); free some space or choose another"
    if error.errno is None and (short := _SHORT.search(str(error))):
        return (
            f"{out} cannot be written: of {short[1]} numbers only {short[2]} fitted, because the disk is full "
            f"({_free(out)} free) or files may not be as large; free some space or choose another disk"
        )
    if error.errno in _REFUSED:
        return (
            f"{error.filename or out} cannot be used: {os.strerror(error.errno)}; choose another place, or change what "
            "the system allows"
        )
    return None


def _free(out: Path) -> str:
    there = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    return f"{shutil.disk_usage(there).free / 1e9:.1f} GB"
