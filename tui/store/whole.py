"""A chat as a whole, apart from any store: what is taken out of one and put into another."""

import math
import sqlite3
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .chats import missing
from .messages import STATES
from .records import from_column, from_json, to_column, to_json


@dataclass(frozen=True)
class WholeMessage:
    """A message; `parent` is the place of its parent in the chat's list, where it comes earlier, None for a first one.

    `created` is in seconds since 1970, None where nobody knows.
    """

    parent: int | None
    role: str
    content: str
    state: str = "complete"
    created: float | None = None
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class WholeChat:
    """A chat with all its branches; `head` is the place of the last message of the branch that is shown.

    `uid` tells it from every other chat in the world, and the same chat in another store has the same one.
    """

    uid: str
    messages: Sequence[WholeMessage]
    head: int | None = None
    title: str = ""
    created: float | None = None
    updated: float | None = None
    pinned: bool = False
    settings: dict[str, Any] = field(default_factory=dict)
    draft: str = ""


@dataclass(frozen=True)
class Put:
    """What `put` did: the chat, whether it is a new one, and how many messages were added."""

    chat_id: int
    is_new: bool
    added: int


def take(connection: sqlite3.Connection, chat_id: int) -> WholeChat:
    """Return the chat as a whole. A reply that is being written is a partial one."""
    row = connection.execute(
        "SELECT uid, head, title, created, updated, pinned, settings, draft FROM chats WHERE id = ?", (chat_id,)
    ).fetchone()
    if row is None:
        raise missing(chat_id)
    places: dict[int | None, int | None] = {None: None}
    messages = []
    for number, parent_id, role, content, state, created, details in connection.execute(
        "SELECT id, parent_id, role, content, state, created, details FROM messages WHERE chat_id = ? ORDER BY id",
        (chat_id,),
    ):
        places[number] = len(messages)
        kept = "partial" if state == "streaming" else state
        messages.append(WholeMessage(places[parent_id], role, from_column(content), kept, created, from_json(details)))
    uid, head, title, created, updated, pinned, settings, draft = row
    return WholeChat(
        uid=uid,
        messages=messages,
        head=places[head],
        title=from_column(title),
        created=created,
        updated=updated,
        pinned=bool(pinned),
        settings=from_json(settings),
        draft=from_column(draft),
    )


def put(connection: sqlite3.Connection, chat: WholeChat) -> Put:
    """Add the chat; where it is known already, only the messages that are not there yet, and undo its deletion."""
    row = connection.execute("SELECT id FROM chats WHERE uid = ?", (chat.uid,)).fetchone()
    chat_id = row[0] if row else _add_chat(connection, chat)
    if row:
        connection.execute("UPDATE chats SET deleted = NULL WHERE id = ? AND deleted IS NOT NULL", (chat_id,))
    ids, added = _add_messages(connection, chat, chat_id)
    if not row and chat.head is not None:
        connection.execute("UPDATE chats SET head = ? WHERE id = ?", (ids[chat.head], chat_id))
    elif row and added:
        connection.execute("UPDATE chats SET updated = max(updated, ?) WHERE id = ?", (_updated(chat), chat_id))
    return Put(chat_id, is_new=not row, added=added)


def _add_chat(connection: sqlite3.Connection, chat: WholeChat) -> int:
    return connection.execute(
        "INSERT INTO chats (uid, title, created, updated, pinned, settings, draft) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            chat.uid or uuid.uuid4().hex,
            to_column(chat.title),
            _known(chat.created, *(message.created for message in chat.messages)),
            _updated(chat),
            int(chat.pinned),
            to_json(chat.settings),
            to_column(chat.draft),
        ),
    ).lastrowid


def _add_messages(connection: sqlite3.Connection, chat: WholeChat, chat_id: int) -> tuple[list[int], int]:
    """Add what is missing; return the ids of all the chat's messages, and how many are new."""
    there: dict[tuple, list[tuple[int, float]]] = {}
    for number, parent_id, role, content, created in connection.execute(
        "SELECT id, parent_id, role, content, created FROM messages WHERE chat_id = ? ORDER BY id", (chat_id,)
    ):
        there.setdefault((parent_id, role, content), []).append((number, created))
    ids: list[int] = []
    added = 0
    otherwise = _known(chat.created)
    for message in chat.messages:
        parent_id = None if message.parent is None else ids[message.parent]
        content = to_column(message.content)
        known = there.get((parent_id, message.role, content), [])
        same = next((each for each in known if message.created in (None, each[1])), None)
        if same:
            known.remove(same)
            ids.append(same[0])
            continue
        created = _known(message.created, otherwise)
        state = message.state if message.state in STATES and message.state != "streaming" else "partial"
        ids.append(
            connection.execute(
                "INSERT INTO messages (chat_id, parent_id, role, content, state, created, touched, details) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (chat_id, parent_id, message.role, content, state, created, created, to_json(message.details)),
            ).lastrowid
        )
        added += 1
    return ids, added


def _updated(chat: WholeChat) -> float:
    newest = max((message.created for message in chat.messages if message.created is not None), default=None)
    return _known(chat.updated, newest, chat.created)


def _known(*times: float | None) -> float:
    """The first of the times that is known, or now."""
    return next((float(at) for at in times if at is not None and math.isfinite(at)), time.time())
