"""How a store is opened, in whatever state it is: new, old, newer, damaged, or not to be written."""

import os
import shutil
import sqlite3
import tempfile
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from . import migrations, repair
from .errors import BUSY_SECONDS, StoreError, is_damage, sentence
from .file_lock import locked
from .search import words


@dataclass(frozen=True)
class Opened:
    """A connection to a store of the present format, and what there is to say about it."""

    connection: sqlite3.Connection
    read_only: bool = False
    notice: str | None = None


def open_store(path: Path | None) -> Opened:
    """Open the store at `path`, or make it there; None makes one in memory.

    A damaged file is set aside and what can be read of it saved. A file or folder that may not be written is opened to
    be read. One process at a time does this, so nobody meets a half-made, half-migrated or half-repaired store.

    Raises:
        StoreError: the store was made by a newer koala-tui or another program, or it cannot be opened.
    """
    if path is None:
        connection = connect(":memory:")
        migrations.migrate(connection)
        return Opened(connection)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise StoreError(f"{path} is a folder: name the file in which the store shall be")
        if not _writable(path):
            return _open_read_only(path)
        with locked(path.with_name(path.name + ".lock")):
            return _open_writable(path)
    except StoreError:
        raise
    except (OSError, sqlite3.Error) as error:
        problem = sentence(error, path)
        with suppress(OSError, sqlite3.Error, StoreError):
            return replace(_open_read_only(path), notice=f"{problem}; it is open to be read only")
        raise problem from error


def connect(path: str | Path, uri: bool = False) -> sqlite3.Connection:
    """Return a connection on which transactions are begun and ended by hand."""
    connection = sqlite3.connect(
        path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False, uri=uri, cached_statements=256
    )
    connection.create_function("words", 1, words, deterministic=True)
    connection.text_factory = lambda value: value.decode("utf-8", "replace")  # the disk may have damaged it
    connection.execute("PRAGMA trusted_schema = ON")  # triggers call `words`
    connection.execute("PRAGMA foreign_keys = ON")
    return connection


def _open_writable(path: Path) -> Opened:
    repair.finish(path)
    if not path.exists():
        path.touch(mode=repair.PRIVATE)
    notice = None
    connection = connect(path)
    try:
        try:
            _prepare(connection, path)
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise
            notice = repair.repair(
                path
            )  # before the connection is closed: SQLite then removes a log that it cannot read
            connection.close()
            connection = connect(path)
            _prepare(connection, path)
        had = migrations.version(connection)
        if 0 < had < migrations.LATEST:
            copy = _copy_before_migration(connection, path, had)
            notice = f"the store was brought to format {migrations.LATEST}; as it was before, it is kept as {copy}"
        migrations.migrate(connection)
    except BaseException:
        connection.close()
        raise
    return Opened(connection, notice=notice)


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    check_origin(connection, path)
    mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    connection.execute("PRAGMA fullfsync = ON")  # macOS: a sync that reaches the disk
    # Without a write-ahead log (on some network drives) only full synchronisation leaves no half-written page.
    connection.execute(f"PRAGMA synchronous = {'NORMAL' if mode == 'wal' else 'FULL'}")
    connection.execute("PRAGMA journal_size_limit = 16777216")  # bytes
    connection.execute("PRAGMA secure_delete = ON")  # what is purged is overwritten


def check_origin(connection: sqlite3.Connection, path: Path) -> None:
    """Look at the beginning of the file.

    Raises:
        StoreError: a newer koala-tui or another program made it.
        sqlite3.DatabaseError: it is damaged.
    """
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if tables and application != migrations.APPLICATION:
        raise StoreError(f"{path} is a database of another program: choose another place for the store")
    had = migrations.version(connection)
    if had > migrations.LATEST:
        raise StoreError(
            f"{path} was written by a newer koala-tui (format {had}, this one knows {migrations.LATEST}): "
            "update koala, or choose another place for the store"
        )
    if had:
        connection.execute("SELECT max(id), (SELECT max(id) FROM messages) FROM chats").fetchone()


def _copy_before_migration(connection: sqlite3.Connection, path: Path, had: int) -> Path:
    copy = repair.unused(path.with_name(f"{path.stem}.format-{had}{path.suffix}"))
    unfinished = copy.with_name(copy.name + ".part")
    unfinished.unlink(missing_ok=True)
    unfinished.touch(mode=repair.PRIVATE)
    with closing(sqlite3.connect(unfinished)) as target:
        connection.backup(target)
    repair.flush(unfinished)
    unfinished.replace(copy)
    return copy


def _writable(path: Path) -> bool:
    effective = os.access in os.supports_effective_ids
    return all(os.access(each, os.W_OK, effective_ids=effective) for each in (path.parent, path) if each.exists())


def _open_read_only(path: Path) -> Opened:
    if not path.exists():
        raise StoreError(f"no store can be made in {path.parent}: it may not be written; choose another place for it")
    try:
        connection = _connect_read_only(path)
        try:
            check_origin(connection, path)
            if migrations.version(connection) < migrations.LATEST:
                connection = _in_memory(connection)
                migrations.migrate(connection)
            connection.execute("PRAGMA query_only = ON")
        except BaseException:
            connection.close()
            raise
    except sqlite3.DatabaseError as error:
        if not is_damage(error):
            raise
        raise StoreError(f"{path} is damaged, and cannot be mended where nothing may be written") from error
    notice = f"{path} may not be written: it can be read, but nothing new is kept"
    return Opened(connection, read_only=True, notice=notice)


def _connect_read_only(path: Path) -> sqlite3.Connection:
    """Connect where perhaps nothing can be written beside the file, and yet with what is in its write-ahead log."""
    log = path.with_name(path.name + "-wal")
    pending = log.exists() and log.stat().st_size > 0
    for mode in ("mode=ro",) if pending else ("mode=ro", "mode=ro&immutable=1"):
        connection = connect(f"{path.resolve().as_uri()}?{mode}", uri=True)
        try:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            return connection
        except sqlite3.Error as error:
            connection.close()
            if is_damage(error):
                raise
            problem = error
    if not pending:
        raise problem
    with tempfile.TemporaryDirectory(prefix="koala-") as folder:
        copy = Path(folder) / path.name
        shutil.copyfile(path, copy)
        shutil.copyfile(log, copy.with_name(log.name))
        return _in_memory(connect(copy))


def _in_memory(connection: sqlite3.Connection) -> sqlite3.Connection:
    """Return a copy of the store in memory; the connection is closed."""
    with closing(connection):
        copy = connect(":memory:")
        connection.backup(copy)
    return copy
