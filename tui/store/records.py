"""What the store hands out, and the form that texts and values have in its columns."""

import json
from dataclasses import dataclass
from typing import Any

HIT, HIT_END = "\x02", "\x03"


@dataclass(frozen=True)
class Chat:
    """One chat; times are seconds since 1970, `messages` counts those of all branches."""

    id: int
    title: str
    created: float
    updated: float
    pinned: bool
    settings: dict[str, Any]
    draft: str
    messages: int


@dataclass(frozen=True)
class StoredMessage:
    """One message in the tree of a chat; it is the `position`th of `siblings` answers to the same parent (from 1).

    `state` is "complete", "streaming" (somebody is writing it), "partial" (stopped or interrupted; it can be
    continued) or "failed". `details` are those of the reply: model, sampling, speed.
    """

    id: int
    chat_id: int
    parent_id: int | None
    role: str
    content: str
    state: str
    created: float
    details: dict[str, Any]
    position: int
    siblings: int


@dataclass(frozen=True)
class Hit:
    """A place where what was searched for was said; `message_id` is None where it is the chat's title.

    `snippet` is the text around it, on one line, each match between \\x02 and \\x03.
    """

    chat_id: int
    message_id: int | None
    title: str
    snippet: str
    role: str
    created: float


def to_column(text: str) -> str | bytes:
    """Return the text as it is stored: as it is, or as bytes where it holds half a character, which no encoding has.

    Two halves that belong together become the character that they mean.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
        try:
            whole.encode()
        except UnicodeEncodeError:
            return whole.encode("utf-8", "surrogatepass")
        return whole
    return text


def from_column(value: str | bytes | None) -> str:
    """Return the text that `to_column` was given; what a damaged disk made of it has replacement characters."""
    if not isinstance(value, bytes):
        return value or ""
    try:
        return value.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return value.decode("utf-8", "replace")


def to_json(values: dict[str, Any]) -> str:
    """Return the values as JSON in ASCII; what JSON does not know becomes its text."""
    return json.dumps(values, default=str)


def from_json(text: str | bytes | None) -> dict[str, Any]:
    """Return the values in the column, none where it was damaged."""
    try:
        values = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}
