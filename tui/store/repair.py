"""What is done with a damaged store: it is set aside, never deleted, and what can be read of it goes into a new one."""

import contextlib
import os
import shutil
import sqlite3
import time
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

from . import migrations
from .search import words

PRIVATE = 0o600  # permissions of what holds chats
COMPANIONS = ("-wal", "-shm")  # SQLite's names for the write-ahead log and its index


def repair(path: Path) -> str:
    """Put a new store in the place of the damaged one at `path`; return a sentence that says what was done.

    The damaged file and its companions lie beside it afterwards, under a name with the date. The new store is complete
    before anything is moved. The caller holds the store's lock file and a connection that does not write: while it is
    open, SQLite leaves the log where it is.
    """
    from . import salvage  # rarely needed, and the app starts sooner without

    mended = _mended(path)
    unfinished = mended.with_name(mended.name + ".part")
    for name in (mended, unfinished):
        name.unlink(missing_ok=True)
    unfinished.touch(mode=PRIVATE)
    saved = salvage.read(path)
    _write(saved.chats.values(), saved.messages.values(), unfinished)
    flush(unfinished)
    unfinished.replace(mended)
    aside = unused(path.with_name(f"{path.stem}.corrupt-{time.strftime('%Y-%m-%d')}{path.suffix}"))
    for ending in ("", *COMPANIONS):
        if _beside(path, ending).exists():
            _link(_beside(path, ending), _beside(aside, ending))
    path.unlink()
    finish(path)
    return (
        f"{path.name} was damaged: {len(saved.chats):,} chats with {len(saved.messages):,} messages were saved from "
        f"it, and the damaged file is kept as {aside}"
    )


def finish(path: Path) -> None:
    """End a repair that was cut short between its last steps, if one was."""
    mended = _mended(path)
    if not mended.exists() or path.exists():
        return
    for ending in COMPANIONS:  # they belong to the damaged file, beside which they have a second name
        _beside(path, ending).unlink(missing_ok=True)
    mended.replace(path)
    flush(path.parent)


def restore(connection: sqlite3.Connection, path: Path) -> None:
    """Put what the connection has at `path`, from where its file was removed."""
    unfinished = _mended(path).with_name(_mended(path).name + ".part")
    unfinished.unlink(missing_ok=True)
    unfinished.touch(mode=PRIVATE)
    with closing(sqlite3.connect(unfinished)) as copy:
        connection.backup(copy)
    flush(unfinished)
    unfinished.replace(_mended(path))
    finish(path)


def unused(path: Path) -> Path:
    """Return the path, with a number in its name where there is such a file already."""
    number, candidate = 1, path
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.stem}-{number}{path.suffix}")
    return candidate


def flush(path: Path) -> None:
    """Wait until the file or folder is on the disk itself, where the system can tell."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _write(chats: Iterable[dict[str, Any]], messages: Iterable[dict[str, Any]], path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.create_function("words", 1, words, deterministic=True)
        connection.execute("PRAGMA foreign_keys = ON")
        migrations.migrate(connection)
        connection.execute("BEGIN")
        for table, rows in (("chats", chats), ("messages", messages)):
            for row in rows:
                names, marks = ", ".join(row), ", ".join("?" * len(row))
                connection.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", tuple(row.values()))
        connection.execute("COMMIT")


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without second names
        shutil.copyfile(source, target)


def _mended(path: Path) -> Path:
    return path.with_name(path.name + ".mended")


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)
