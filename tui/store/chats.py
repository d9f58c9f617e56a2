"""The chats: their list, and what belongs to a chat rather than to a message."""

import sqlite3
import time
import uuid
from typing import Any

from .errors import NotFoundError
from .records import Chat, from_column, from_json, to_column, to_json

COLUMNS = "id, title, created, updated, pinned, settings, draft, messages"


def listed(connection: sqlite3.Connection, limit: int, offset: int) -> list[Chat]:
    """Return the chats that are not deleted: the pinned ones first, then by the time of the last change."""
    rows = connection.execute(
        f"SELECT {COLUMNS} FROM chats WHERE deleted IS NULL "
        "ORDER BY pinned DESC, updated DESC, id DESC LIMIT ? OFFSET ?",
        (limit, offset),
    )
    return [_chat(row) for row in rows]


def one(connection: sqlite3.Connection, chat_id: int) -> Chat:
    """Return the chat, deleted or not."""
    row = connection.execute(f"SELECT {COLUMNS} FROM chats WHERE id = ?", (chat_id,)).fetchone()
    if row is None:
        raise missing(chat_id)
    return _chat(row)


def create(connection: sqlite3.Connection, title: str, settings: dict[str, Any] | None) -> int:
    """Add an empty chat and return its id."""
    now = time.time()
    return connection.execute(
        "INSERT INTO chats (uid, title, created, updated, settings) VALUES (?, ?, ?, ?, ?)",
        (uuid.uuid4().hex, to_column(title), now, now, to_json(settings or {})),
    ).lastrowid


def change(connection: sqlite3.Connection, chat_id: int, column: str, value: Any) -> None:
    """Set one column of the chat, which does not count as a change of what was said.

    A draft that is typed into a chat that another window has deleted brings it back.
    """
    if column == "draft" and value:
        connection.execute("UPDATE chats SET deleted = NULL WHERE id = ? AND deleted IS NOT NULL", (chat_id,))
    if connection.execute(f"UPDATE chats SET {column} = ? WHERE id = ?", (value, chat_id)).rowcount == 0:
        raise missing(chat_id)


def purge(connection: sqlite3.Connection, before: float) -> int:
    """Remove for good what was deleted before that time; return how many chats that were."""
    return connection.execute("DELETE FROM chats WHERE deleted < ?", (before,)).rowcount


def missing(chat_id: int) -> NotFoundError:
    """The error for a chat that is not there."""
    return NotFoundError(f"there is no chat {chat_id} any more: another window may have removed it")


def _chat(row: tuple) -> Chat:
    number, title, created, updated, pinned, settings, draft, messages = row
    return Chat(
        number, from_column(title), created, updated, bool(pinned), from_json(settings), from_column(draft), messages
    )
