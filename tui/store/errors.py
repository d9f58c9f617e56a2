"""What the store says when it cannot do what was asked."""

import shutil
from pathlib import Path

BUSY_SECONDS = 10.0  # how long another program is waited for, where nothing else is said
FULL_BYTES = 2**20  # less free space than this, and a failed write is put down to it

_DAMAGED = ("malformed", "not a database", "corrupt", "unsupported file format", "vtable constructor failed")
_BUSY = ("is locked", "locking protocol")
_WRITING = ("disk is full", "disk i/o error", "unable to open")


class StoreError(Exception):
    """The store failed. The message is one sentence for the user: what, where, what to do."""


class NotFoundError(StoreError):
    """There is no such chat or message, or not any more."""


def is_damage(error: Exception) -> bool:
    """Return whether SQLite said that the file's content is broken."""
    return any(words in str(error).lower() for words in _DAMAGED)


def is_busy(error: Exception) -> bool:
    """Return whether SQLite said that somebody else has the file."""
    return any(words in str(error).lower() for words in _BUSY)


def sentence(error: Exception, path: Path | None) -> StoreError:
    """Return SQLite's or the system's complaint about the store at `path` as a sentence for the user."""
    where = str(path) if path else "the store in memory"
    said = str(error).lower()
    if "disk is full" in said or (any(words in said for words in _WRITING) and _no_room(path)):
        return StoreError(f"the disk is full, so this was not kept in {where}: make room there and try again")
    if is_busy(error):
        return StoreError(f"another program keeps {where} to itself: end it, or try again later")
    if "readonly" in said or "read-only" in said or isinstance(error, PermissionError):
        return StoreError(f"{where} may not be written: change its permissions, or choose another place for the store")
    if "no such module: fts5" in said:
        return StoreError("the SQLite of this Python has no full-text search (FTS5): use another build of Python")
    if "too big" in said or isinstance(error, OverflowError):
        return StoreError(f"that is too large for {where}: a text may have a billion bytes at most")
    reason = getattr(error, "strerror", None) or error
    return StoreError(f"{where} cannot be read or written: {reason}")


def _no_room(path: Path | None) -> bool:
    try:
        return path is not None and shutil.disk_usage(path.parent).free < FULL_BYTES
    except OSError:
        return False
