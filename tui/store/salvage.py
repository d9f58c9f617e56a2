"""Every chat and message that can still be read in a damaged store.

First SQLite is asked, around the places where it fails; then, for what it does not reach, the pages of the file are
read one by one. What was saved is put in order: parents and heads that are lost are replaced, so that no chat falls
apart.
"""

import sqlite3
import time
import uuid
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import pages
from .messages import STATES, title_from
from .records import from_column, from_json, to_column, to_json

CHAT = ("id", "uid", "title", "created", "updated", "pinned", "deleted", "settings", "draft", "messages", "head")
MESSAGE = ("id", "chat_id", "parent_id", "role", "content", "state", "created", "touched", "details")
MISSES = 3_000  # ids without a row, one after the other, after which no more are tried; a page has far fewer

Row = dict[str, Any]


@dataclass
class Saved:
    """Rows by their id, fit for a new store."""

    chats: dict[int, Row] = field(default_factory=dict)
    messages: dict[int, Row] = field(default_factory=dict)


def read(path: Path) -> Saved:
    """Return what can be read of the store at `path`, whatever is the matter with it."""
    chats: dict[int, Row] = {}
    messages: dict[int, Row] = {}
    complete = False
    with suppress(sqlite3.Error), closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.text_factory = lambda value: value.decode("utf-8", "replace")
        connection.execute("PRAGMA query_only = ON")
        complete = all(
            [
                _through_sqlite(connection, "chats", CHAT, chats),
                _through_sqlite(connection, "messages", MESSAGE, messages),
            ]
        )
    if not complete:
        by_pages: tuple[dict[int, Row], dict[int, Row]] = {}, {}
        for number, _, *values in pages.rows(path):
            for names, found, stamp in zip((CHAT, MESSAGE), by_pages, ("updated", "touched"), strict=True):
                if len(values) == len(names) - 1:
                    _keep_newest(found, dict(zip(names, (number, *values), strict=True)), stamp)
        chats = by_pages[0] | chats
        messages = by_pages[1] | messages
    return _in_order(chats, messages)


def _through_sqlite(connection: sqlite3.Connection, table: str, names: tuple[str, ...], into: dict[int, Row]) -> bool:
    """Collect the table's rows; return whether all were readable."""

    def scan(rest: str, *values: int) -> bool:
        """Collect what the query finds; return whether it came to its end."""
        try:
            for row in connection.execute(f"SELECT {', '.join(names)} FROM {table} {rest}", values):
                into[row[0]] = dict(zip(names, row, strict=True))
        except sqlite3.Error:
            return False
        return True

    if scan("ORDER BY id"):
        return True
    below = max(into, default=0)
    scan("WHERE id > ? ORDER BY id DESC", below)
    above = min((number for number in into if number > below), default=None)
    misses, number = 0, below + 1
    while number != above and misses < MISSES:
        known = len(into)
        scan("WHERE id = ?", number)
        misses = 0 if len(into) > known else misses + 1
        number += 1
    return False


def _keep_newest(rows: dict[int, Row], row: Row, stamp: str) -> None:
    known = rows.get(row["id"])
    if known is None or _time(row[stamp], 0) >= _time(known[stamp], 0):
        rows[row["id"]] = row


def _in_order(chats: dict[int, Row], messages: dict[int, Row]) -> Saved:
    """Return the rows with everything in them that a store demands."""
    now = time.time()
    saved = Saved()
    by_chat: dict[int, list[Row]] = {}
    for number in sorted(messages):
        row = _message(messages[number], now)
        if row is not None:
            saved.messages[number] = row
            by_chat.setdefault(row["chat_id"], []).append(row)
    for number in sorted({number for number in chats if number > 0} | by_chat.keys()):
        saved.chats[number] = _chat(number, chats.get(number, {}), by_chat.get(number, []), now)
    seen: set[str] = set()
    for row in saved.chats.values():
        if row["uid"] in seen:
            row["uid"] = uuid.uuid4().hex
        seen.add(row["uid"])
    return saved


def _chat(number: int, row: Row, messages: list[Row], now: float) -> Row:
    """The chat, its head the newest message where it is lost; the parents of its messages are put right, too."""
    numbers = [message["id"] for message in messages]
    known = set(numbers)
    for place, message in enumerate(messages):
        parent = message["parent_id"]
        if parent is not None and (parent not in known or parent >= message["id"]):
            message["parent_id"] = numbers[place - 1] if place else None
    uid, head = row.get("uid"), row.get("head")
    first = next((from_column(message["content"]) for message in messages if message["role"] == "user"), "")
    created = min((message["created"] for message in messages), default=now)
    return {
        "id": number,
        "uid": uid if uid and isinstance(uid, str) else uuid.uuid4().hex,
        "title": _text(row["title"]) if row else to_column(title_from(first)),
        "created": _time(row.get("created"), created),
        "updated": _time(row.get("updated"), max((message["created"] for message in messages), default=now)),
        "pinned": int(row.get("pinned") == 1),
        "deleted": row["deleted"] if isinstance(row.get("deleted"), float) else None,
        "settings": to_json(from_json(row.get("settings"))),
        "draft": _text(row.get("draft")),
        "head": head if head in known or (head is None and row) else max(numbers, default=None),
    }


def _message(row: Row, now: float) -> Row | None:
    """The message; None where it cannot be one."""
    if not (row["id"] > 0 and isinstance(row["chat_id"], int) and row["chat_id"] > 0 and isinstance(row["role"], str)):
        return None
    created = _time(row["created"], now)
    return {
        "id": row["id"],
        "chat_id": row["chat_id"],
        "parent_id": row["parent_id"] if isinstance(row["parent_id"], int) else None,
        "role": row["role"],
        "content": _text(row["content"]),
        "state": row["state"] if row["state"] in STATES else "partial",
        "created": created,
        "touched": _time(row["touched"], created),
        "details": to_json(from_json(row["details"])),
    }


def _text(value: Any) -> str | bytes:
    return value if isinstance(value, str | bytes) else ""


def _time(value: Any, otherwise: float) -> float:
    return float(value) if isinstance(value, int | float) else otherwise
