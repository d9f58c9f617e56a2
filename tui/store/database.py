"""One connection to the store, and how reads and writes on it are done."""

import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from . import repair
from .errors import BUSY_SECONDS, StoreError, is_busy, is_damage, sentence
from .file_lock import locked
from .opening import open_store

RETRY_SECONDS = 0.05
T = TypeVar("T")


class Database:
    """A store's file. Operations are functions that get the connection first; they may be run twice.

    Several threads may use it, one after the other. Where the file turns out to be damaged it is mended, and where
    somebody else has put another in its place (they mended it), that one is opened; the operation is then done there.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._lock = threading.RLock()
        self._patience = BUSY_SECONDS
        self._open()

    def wait_at_most(self, seconds: float) -> None:
        """Wait no longer than this for another program that has the file to itself."""
        with self._lock:
            self._patience = seconds
            self._connection.execute(f"PRAGMA busy_timeout = {seconds * 1000:.0f}")

    def read(self, operation: Callable[..., T], *arguments: Any) -> T:
        """Return what the operation returns; all that it reads is of the same moment."""
        return self._run("BEGIN", operation, arguments, durable=False)

    def write(self, operation: Callable[..., T], *arguments: Any, durable: bool = False) -> T:
        """Run the operation: all of what it writes is kept, or nothing. `durable`: it survives a power cut, too."""
        if self.read_only:
            raise StoreError(f"{self.path} is open to be read only, so nothing new can be kept")
        return self._run("BEGIN IMMEDIATE", operation, arguments, durable)

    def replaced(self) -> bool:
        """Return whether another file is in the store's place, and if so, open that one."""
        with self._lock:
            if not self._has_moved():
                return False
            self._reopen()
            return True

    def close(self) -> None:
        """Close the file. Closing twice is harmless."""
        with self._lock:
            self._connection.close()

    def _run(self, begin: str, operation: Callable[..., T], arguments: tuple, durable: bool) -> T:
        with self._lock:
            try:
                try:
                    return self._transaction(begin, operation, arguments, durable)
                except _Moved:
                    self._reopen()
                except sqlite3.DatabaseError as error:
                    if not is_damage(error) or self.read_only or self.path is None:
                        raise
                    self._mend()
                return self._transaction(begin, operation, arguments, durable)
            except (sqlite3.Error, OSError, OverflowError, _Moved) as error:
                raise sentence(error, self.path) from error

    def _transaction(self, begin: str, operation: Callable[..., T], arguments: tuple, durable: bool) -> T:
        if durable:
            self._connection.execute("PRAGMA synchronous = FULL")
        try:
            self._begin(begin)
            try:
                if begin != "BEGIN" and self._has_moved():
                    raise _Moved
                result = operation(self._connection, *arguments)
                self._connection.execute("COMMIT")
                return result
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
        finally:
            if durable:
                self._connection.execute(f"PRAGMA synchronous = {self._synchronous}")

    def _begin(self, begin: str) -> None:
        deadline = time.monotonic() + self._patience
        while True:
            try:
                self._connection.execute(begin)
                return
            except sqlite3.OperationalError as error:
                # SQLite waits by itself, but for the rare moments in which it says so at once.
                if not is_busy(error) or time.monotonic() > deadline:
                    raise
                time.sleep(RETRY_SECONDS)

    def _open(self) -> None:
        opened = open_store(self.path)
        self._connection, self.read_only, self.notice = opened.connection, opened.read_only, opened.notice
        self._synchronous = self._connection.execute("PRAGMA synchronous").fetchone()[0]
        self._identity = _identity(self.path)
        self.wait_at_most(self._patience)

    def _has_moved(self) -> bool:
        return self.path is not None and not self.read_only and _identity(self.path) != self._identity

    def _reopen(self) -> None:
        """Open what is at the path now; where nothing is, what this connection still has is put there first."""
        with locked(_lock_file(self.path)):
            if not self.path.exists():
                repair.restore(self._connection, self.path)
            self._connection.close()
        self._open()

    def _mend(self) -> None:
        """Make the search index anew where it alone is damaged, else the whole store."""
        if self._search_index_made_anew():
            return
        notice = None
        with locked(_lock_file(self.path)):
            if not self._has_moved():
                with suppress(sqlite3.Error):  # so that no other program writes what would then be missing
                    self._connection.execute("BEGIN IMMEDIATE")
                notice = repair.repair(self.path)
            self._connection.close()
        self._open()
        self.notice = notice or self.notice

    def _search_index_made_anew(self) -> bool:
        try:
            for table in ("chats", "messages", "search_index_data"):
                if self._connection.execute(f"PRAGMA integrity_check ({table})").fetchall() != [("ok",)]:
                    return False
            self._begin("BEGIN IMMEDIATE")
            self._connection.execute("INSERT INTO search_index (search_index) VALUES ('rebuild')")
            self._connection.execute("COMMIT")
        except sqlite3.Error:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            return False
        return True


class _Moved(Exception):
    """Another file is in the store's place."""


def _identity(path: Path | None) -> tuple[int, int] | None:
    try:
        found = path.stat() if path else None
    except OSError:
        return None
    return (found.st_dev, found.st_ino) if found else None


def _lock_file(path: Path) -> Path:
    return path.with_name(path.name + ".lock")
