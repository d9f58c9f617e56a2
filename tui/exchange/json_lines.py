"""Koala's own form: one chat a line, with everything that the store knows of it."""

import json
from typing import Any

from ..store import WholeChat, WholeMessage
from .record import Unusable, moment, objects, optional_text, text

FORMAT = 1


def to_line(chat: WholeChat) -> str:
    """Return the chat as one line of JSON, without its end."""
    values = {
        "koala_chat": FORMAT,
        "id": chat.uid,
        "title": chat.title,
        "created": chat.created,
        "updated": chat.updated,
        "pinned": chat.pinned,
        "settings": chat.settings,
        "draft": chat.draft,
        "head": chat.head,
        "messages": [
            {
                "parent": message.parent,
                "role": message.role,
                "content": message.content,
                "state": message.state,
                "created": message.created,
                "details": message.details,
            }
            for message in chat.messages
        ],
    }
    return json.dumps(values, ensure_ascii=False)


def from_record(fields: dict[str, Any]) -> WholeChat:
    """Return the chat in a line.

    Raises:
        Unusable: something in it is missing or of the wrong kind, or a newer koala-tui wrote it.
    """
    written = fields["koala_chat"]
    if written != FORMAT:
        raise Unusable(f"it is of format {written!r}, and this koala-tui knows {FORMAT}: update koala")
    messages = [_message(values, place) for place, values in enumerate(objects(fields, "messages"))]
    return WholeChat(
        uid=text(fields, "id"),
        messages=messages,
        head=_place(fields, "head", len(messages)),
        title=optional_text(fields, "title"),
        created=moment(fields, "created"),
        updated=moment(fields, "updated"),
        pinned=fields.get("pinned") is True,
        settings=_values(fields, "settings"),
        draft=optional_text(fields, "draft"),
    )


def _message(fields: dict[str, Any], place: int) -> WholeMessage:
    return WholeMessage(
        parent=_place(fields, "parent", place),
        role=text(fields, "role"),
        content=text(fields, "content"),
        state=optional_text(fields, "state") or "complete",
        created=moment(fields, "created"),
        details=_values(fields, "details"),
    )


def _place(fields: dict[str, Any], name: str, end: int) -> int | None:
    place = fields.get(name)
    if place is not None and not (isinstance(place, int) and 0 <= place < end):
        raise Unusable(f"'{name}' is {place!r}, which is the place of no message before")
    return place


def _values(fields: dict[str, Any], name: str) -> dict[str, Any]:
    values = fields.get(name)
    if values is not None and not isinstance(values, dict):
        raise Unusable(f"'{name}' must be an object")
    return values or {}
