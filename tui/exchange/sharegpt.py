"""ShareGPT's form, which training tools read: `{"id": …, "conversations": [{"from": "human", "value": …}, …]}`.

It knows one conversation, and no branches: a chat is written as the branch that is shown, or as one conversation for
each of its branches.
"""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

from ..store import WholeChat, WholeMessage
from ..store.messages import title_from
from .record import Unusable, moment, objects, optional_text, text

NAMES = {"user": "human", "assistant": "gpt"}  # any other role is "system"
ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "system": "system",
}


def to_lines(chat: WholeChat, branches: bool = False) -> Iterator[str]:
    """Yield the conversation that is shown as one line of JSON, then, with `branches`, those of the other branches.

    A chat in which nothing is said has none.
    """
    parents = {message.parent for message in chat.messages}
    ends = [chat.head] if chat.head is not None else []
    if branches:
        ends += [place for place in range(len(chat.messages)) if place not in parents and place != chat.head]
    for number, end in enumerate(ends, 1):
        turns = _turns(chat, end)
        if any(turn["from"] != "system" for turn in turns):
            name = chat.uid if number == 1 else f"{chat.uid}-{number}"
            yield json.dumps({"id": name, "conversations": turns}, ensure_ascii=False)


def from_record(fields: dict[str, Any]) -> WholeChat:
    """Return the chat of one row; a system turn at its beginning becomes the chat's system prompt.

    A row of `messages` with `role` and `content`, as training sets have them today, is one, too.

    Raises:
        Unusable: something in it is missing, of the wrong kind, or said by nobody who is known.
    """
    if "conversations" in fields:
        turns = [(text(turn, "from"), text(turn, "value")) for turn in objects(fields, "conversations")]
    else:
        turns = [(text(turn, "role"), text(turn, "content")) for turn in objects(fields, "messages")]
    said = []
    for name, value in turns:
        if name.lower() not in ROLES:
            raise Unusable(f"somebody called {name!r} speaks in it; known are {', '.join(ROLES)}")
        said.append((ROLES[name.lower()], value))
    settings = {"system": said.pop(0)[1]} if said and said[0][0] == "system" else {}
    if not said:
        raise Unusable("nothing is said in it")
    created = moment(fields, "create_time")
    messages = [
        WholeMessage(place - 1 if place else None, role, value, created=created)
        for place, (role, value) in enumerate(said)
    ]
    first = next((value for role, value in said if role == "user"), said[0][1])
    content = json.dumps([settings, said]).encode()
    return WholeChat(
        uid=f"sharegpt-{hashlib.sha256(content).hexdigest()[:32]}",  # ids in such files are often used twice
        messages=messages,
        head=len(messages) - 1,
        title=optional_text(fields, "title") or title_from(first),
        created=created,
        settings=settings,
    )


def _turns(chat: WholeChat, end: int) -> list[dict[str, str]]:
    turns = []
    place: int | None = end
    while place is not None:
        message = chat.messages[place]
        if message.content:
            turns.append({"from": NAMES.get(message.role, "system"), "value": message.content})
        place = message.parent
    system = chat.settings.get("system")
    if isinstance(system, str) and system:
        turns.append({"from": "system", "value": system})
    return turns[::-1]
