"""The SQLite file: how it is opened, and how reads and writes on it are done."""

import os
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from . import migrations
from .errors import StoreError
from .search import words

BUSY_SECONDS = 10.0
T = TypeVar("T")


class Database:
    """One connection and its lock. Operations are functions that get the connection first."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.notice: str | None = None
        self.read_only = False
        self._lock = threading.RLock()
        self._connection = self._open()

    def read(self, operation: Callable[..., T], *arguments: Any) -> T:
        """Return what the operation returns, from one state of the store."""
        return self._run("BEGIN", operation, arguments)

    def write(self, operation: Callable[..., T], *arguments: Any, durable: bool = False) -> T:
        """Run the operation as one transaction: all of it or nothing. `durable`: it survives even a power cut."""
        if self.read_only:
            raise StoreError(f"{self.path} is open read-only, so nothing can be kept there")
        if not durable:
            return self._run("BEGIN IMMEDIATE", operation, arguments)
        with self._lock:
            self._connection.execute("PRAGMA synchronous = FULL")
            try:
                return self._run("BEGIN IMMEDIATE", operation, arguments)
            finally:
                self._connection.execute("PRAGMA synchronous = NORMAL")

    def close(self) -> None:
        """Close the file. Closing twice is harmless."""
        with self._lock:
            self._connection.close()

    def _run(self, begin: str, operation: Callable[..., T], arguments: tuple) -> T:
        with self._lock:
            try:
                self._connection.execute(begin)
                try:
                    result = operation(self._connection, *arguments)
                    self._connection.execute("COMMIT")
                    return result
                except BaseException:
                    if self._connection.in_transaction:
                        self._connection.execute("ROLLBACK")
                    raise
            except sqlite3.Error as error:
                raise StoreError(f"the store {self.path} failed: {error}") from error

    def _open(self) -> sqlite3.Connection:
        try:
            if self.path is not None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(
                os.fspath(self.path) if self.path else ":memory:",
                timeout=BUSY_SECONDS,
                isolation_level=None,
                check_same_thread=False,
            )
            connection.create_function("words", 1, words, deterministic=True)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute("PRAGMA foreign_keys = ON")
            if migrations.version(connection) > migrations.LATEST:
                raise StoreError(f"{self.path} was written by a newer koala-tui; update koala, or use another store")
            migrations.migrate(connection)
            return connection
        except (OSError, sqlite3.Error) as error:
            raise StoreError(f"the store {self.path} cannot be opened: {error}") from error
