"""The messages of a chat: a tree in which every question and answer may have siblings, and a head.

The head is the last message of the branch that is shown. Ids grow with time, so the newest leaf of a branch is its
largest id.
"""

import sqlite3
import time
from collections import Counter
from typing import Any

from .chats import missing
from .errors import NotFoundError, StoreError
from .records import StoredMessage, from_column, from_json, to_column, to_json

STATES = ("complete", "streaming", "partial", "failed")
COLUMNS = "id, chat_id, parent_id, role, content, state, created, details"
TITLE_LENGTH = 60  # characters


def path(connection: sqlite3.Connection, chat_id: int) -> list[StoredMessage]:
    """Return the messages from the first one to the head."""
    _head(connection, chat_id)
    parents = dict(sorted(connection.execute("SELECT id, parent_id FROM messages WHERE chat_id = ?", (chat_id,))))
    rows = connection.execute(
        "WITH RECURSIVE up (id) AS (SELECT head FROM chats WHERE id = ? UNION SELECT parent_id FROM messages "
        f"JOIN up USING (id)) SELECT {COLUMNS} FROM messages JOIN up USING (id) ORDER BY id",
        (chat_id,),
    )
    return _with_positions(rows, parents)


def tree(connection: sqlite3.Connection, chat_id: int) -> list[StoredMessage]:
    """Return all messages of the chat, parents before children."""
    _head(connection, chat_id)
    rows = connection.execute(f"SELECT {COLUMNS} FROM messages WHERE chat_id = ? ORDER BY id", (chat_id,)).fetchall()
    return _with_positions(rows, {row[0]: row[2] for row in rows})


def add(
    connection: sqlite3.Connection,
    chat_id: int,
    parent_id: int | None,
    role: str,
    content: str,
    state: str,
    details: dict[str, Any] | None,
) -> int:
    """Add a message, make it the head, and return its id. A chat without a title gets one from a user's message.

    A chat that another window has deleted is brought back.
    """
    _check_state(state)
    title = _head_and_title(connection, chat_id)[1]
    if parent_id is not None and _chat_of(connection, parent_id) != chat_id:
        raise StoreError(f"message {parent_id} is in another chat than {chat_id}, so nothing can follow it there")
    now = time.time()
    message_id = connection.execute(
        "INSERT INTO messages (chat_id, parent_id, role, content, state, created, touched, details) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (chat_id, parent_id, role, to_column(content), state, now, now, to_json(details or {})),
    ).lastrowid
    connection.execute(
        "UPDATE chats SET head = ?, updated = ?, deleted = NULL WHERE id = ?", (message_id, now, chat_id)
    )
    if not title and role == "user":
        connection.execute("UPDATE chats SET title = ? WHERE id = ?", (to_column(title_from(content)), chat_id))
    return message_id


def update(
    connection: sqlite3.Connection,
    message_id: int,
    content: str | None,
    state: str | None,
    details: dict[str, Any] | None,
) -> None:
    """Replace what is given, and note that the message's writer is alive."""
    now = time.time()
    values: dict[str, Any] = {"touched": now}
    if content is not None:
        values["content"] = to_column(content)
    if state is not None:
        _check_state(state)
        values["state"] = state
    if details is not None:
        values["details"] = to_json(details)
    assignments = ", ".join(f"{column} = ?" for column in values)
    if not connection.execute(
        f"UPDATE messages SET {assignments} WHERE id = ?", (*values.values(), message_id)
    ).rowcount:
        raise _no_message(message_id)
    if state not in (None, "streaming"):
        connection.execute("UPDATE chats SET updated = ? WHERE id = ?", (now, _chat_of(connection, message_id)))


def select(connection: sqlite3.Connection, message_id: int) -> None:
    """Make the newest leaf below the message, or itself, the head of its chat."""
    connection.execute(
        "UPDATE chats SET head = (WITH RECURSIVE below (id) AS (SELECT ? UNION ALL SELECT messages.id FROM messages "
        "JOIN below ON messages.chat_id = chats.id AND parent_id = below.id) SELECT max(id) FROM below) WHERE id = ?",
        (message_id, _chat_of(connection, message_id)),
    )


def sibling(connection: sqlite3.Connection, message_id: int, step: int) -> int | None:
    """Return the id of the sibling that is `step` places further, None where there is none."""
    siblings = [
        number
        for (number,) in connection.execute(
            "SELECT other.id FROM messages AS this JOIN messages AS other ON other.chat_id = this.chat_id "
            "AND other.parent_id IS this.parent_id WHERE this.id = ? ORDER BY other.id",
            (message_id,),
        )
    ]
    if message_id not in siblings:
        raise _no_message(message_id)
    place = siblings.index(message_id) + step
    return siblings[place] if 0 <= place < len(siblings) else None


def set_head(connection: sqlite3.Connection, chat_id: int, message_id: int | None) -> None:
    """Make the message the last one of the branch that is shown; None shows none."""
    _head(connection, chat_id)
    if message_id is not None and _chat_of(connection, message_id) != chat_id:
        raise StoreError(f"message {message_id} is in another chat than {chat_id}, so it cannot be shown there")
    connection.execute("UPDATE chats SET head = ? WHERE id = ?", (message_id, chat_id))


def take_back(connection: sqlite3.Connection, message_id: int) -> None:
    """Remove a message that nothing follows; where it was the head, its parent is, or else the newest message left."""
    chat_id = _chat_of(connection, message_id)
    if connection.execute(
        "SELECT 1 FROM messages WHERE chat_id = ? AND parent_id = ?", (chat_id, message_id)
    ).fetchone():
        raise StoreError(f"message {message_id} cannot be taken back: others follow it")
    connection.execute(
        "UPDATE chats SET head = (SELECT coalesce(parent_id, (SELECT max(id) FROM messages WHERE chat_id = :chat "
        "AND id <> :message)) FROM messages WHERE id = :message) WHERE id = :chat AND head = :message",
        {"chat": chat_id, "message": message_id},
    )
    connection.execute("DELETE FROM messages WHERE id = ?", (message_id,))


def heartbeat(connection: sqlite3.Connection, message_ids: list[int]) -> None:
    """Note that these replies are still being written, even where somebody thought that they were not."""
    connection.executemany(
        "UPDATE messages SET touched = ?, state = 'streaming' WHERE id = ?",
        [(time.time(), message_id) for message_id in message_ids],
    )


def silent(connection: sqlite3.Connection, before: float) -> list[int]:
    """Return the ids of the streaming replies that had no sign of life since `before`."""
    rows = connection.execute("SELECT id FROM messages WHERE state = 'streaming' AND touched < ?", (before,))
    return [number for (number,) in rows]


def interrupted(connection: sqlite3.Connection, before: float) -> list[int]:
    """Turn the replies that `silent` finds into partial ones; return their ids."""
    ids = silent(connection, before)
    connection.executemany("UPDATE messages SET state = 'partial' WHERE id = ?", [(number,) for number in ids])
    return ids


def history(connection: sqlite3.Connection, limit: int) -> list[str]:
    """Return what users wrote, newest first, each text once."""
    rows = connection.execute(
        "SELECT content FROM messages JOIN chats ON chats.id = chat_id AND deleted IS NULL "
        "WHERE role = 'user' ORDER BY messages.created DESC LIMIT ?",
        (limit,),
    )
    return list(dict.fromkeys(from_column(content) for (content,) in rows))


def title_from(text: str) -> str:
    """Return the first line that says something, shortened at a word."""
    line = next((" ".join(line.split()) for line in text.splitlines() if line.strip()), "")
    if len(line) <= TITLE_LENGTH:
        return line
    cut = line[:TITLE_LENGTH]
    word = cut.rfind(" ")
    return (cut[:word] if word > TITLE_LENGTH // 2 else cut[:-1]) + "…"


def _with_positions(rows: Any, parents: dict[int, int | None]) -> list[StoredMessage]:
    siblings: Counter[int | None] = Counter()
    positions: dict[int, int] = {}
    for message_id, parent_id in parents.items():
        siblings[parent_id] += 1
        positions[message_id] = siblings[parent_id]
    return [
        StoredMessage(
            message_id,
            chat_id,
            parent_id,
            role,
            from_column(content),
            state,
            created,
            from_json(details),
            positions[message_id],
            siblings[parent_id],
        )
        for message_id, chat_id, parent_id, role, content, state, created, details in rows
    ]


def _head(connection: sqlite3.Connection, chat_id: int) -> int | None:
    return _head_and_title(connection, chat_id)[0]


def _head_and_title(connection: sqlite3.Connection, chat_id: int) -> tuple[int | None, str | bytes]:
    row = connection.execute("SELECT head, title FROM chats WHERE id = ?", (chat_id,)).fetchone()
    if row is None:
        raise missing(chat_id)
    return row


def _chat_of(connection: sqlite3.Connection, message_id: int) -> int:
    row = connection.execute("SELECT chat_id FROM messages WHERE id = ?", (message_id,)).fetchone()
    if row is None:
        raise _no_message(message_id)
    return row[0]


def _no_message(message_id: int) -> NotFoundError:
    return NotFoundError(f"there is no message {message_id} any more: another window may have removed it")


def _check_state(state: str) -> None:
    if state not in STATES:
        raise ValueError(f"no state: {state!r}; known are {', '.join(STATES)}")
