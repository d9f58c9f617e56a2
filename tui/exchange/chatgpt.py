"""What ChatGPT gives its users: conversations as a tree of nodes, in which much is not for the eye.

Left out are the nodes of the system and of tools that show nothing, what is marked as hidden, and the model's thoughts.
What remains hangs on the nearest node above that remains. The steps of one answer (a program, its output, the answer)
are one message. Pictures, sounds and files are not in the JSON: a line in brackets says where they were.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from ..store import WholeChat, WholeMessage
from ..store.messages import title_from
from .fences import fenced
from .record import Unusable, moment, optional_text

HIDDEN_TYPES = {
    "model_editable_context",
    "reasoning_recap",
    "system_error",
    "tether_browsing_display",
    "thoughts",
    "user_editable_context",
}
SHOWN_OF_TOOLS = {"execution_output", "multimodal_text"}  # what a program said, and pictures
PLACEHOLDERS = {
    "image_asset_pointer": "[image]",
    "audio_asset_pointer": "[audio]",
    "real_time_user_audio_video_asset_pointer": "[audio]",
    "video_container_asset_pointer": "[video]",
}
# Marks of citations that its own page draws, between characters for private use.
_CITATIONS = re.compile("\ue200[^\ue201]*\ue201")


def from_record(fields: dict[str, Any]) -> WholeChat:
    """Return the chat of one conversation.

    Raises:
        Unusable: its tree is none, or nothing in it can be seen.
    """
    nodes = fields["mapping"]
    if not isinstance(nodes, dict) or not all(isinstance(node, dict) for node in nodes.values()):
        raise Unusable("'mapping' must be an object of objects")
    said = _seen_messages(nodes, optional_text(fields, "default_model_slug"))
    if not said:
        raise Unusable("nothing that can be seen is said in it")
    messages, places = _joined(said)
    end = _nearest(nodes, said, optional_text(fields, "current_node"))
    title = optional_text(fields, "title")
    uid = optional_text(fields, "conversation_id") or optional_text(fields, "id") or next(iter(nodes))
    return WholeChat(
        uid=f"chatgpt-{uid}",
        messages=messages,
        head=len(messages) - 1 if end is None else places[end],
        title=title or title_from(next((message.content for message in messages if message.role == "user"), "")),
        created=moment(fields, "create_time"),
        updated=moment(fields, "update_time"),
    )


def _seen_messages(nodes: dict[str, dict[str, Any]], model: str) -> dict[str, tuple[str | None, WholeMessage]]:
    """What can be seen, by the nodes' names, each with the nearest node above it that can be seen, parents first."""
    seen: dict[str, tuple[str | None, WholeMessage]] = {}
    nearest: dict[str | None, str | None] = {None: None}
    for name, above in _walk(nodes):
        message = _message(nodes[name].get("message"), model)
        nearest[name] = nearest[above] if message is None else name
        if message is not None:
            seen[name] = nearest[above], message
    return seen


def _joined(said: dict[str, tuple[str | None, WholeMessage]]) -> tuple[list[WholeMessage], dict[str, int]]:
    """The messages, the steps of one answer made one, and the place of each node among them."""
    children = Counter(above for above, _ in said.values())
    messages: list[WholeMessage] = []
    places: dict[str, int] = {}
    for name, (above, message) in said.items():
        parent = None if above is None else places[above]
        if parent is not None and children[above] == 1 and message.role == messages[parent].role == "assistant":
            whole = messages[parent]
            messages[parent] = replace(whole, content=f"{whole.content}\n\n{message.content}")
            places[name] = parent
        else:
            places[name] = len(messages)
            messages.append(replace(message, parent=parent))
    return messages, places


def _nearest(nodes: dict[str, dict[str, Any]], said: dict[str, Any], name: str) -> str | None:
    """The node of this name, or the first one above it, that can be seen."""
    passed: set[str] = set()
    while name in nodes and name not in said and name not in passed:
        passed.add(name)
        name = optional_text(nodes[name], "parent")
    return name if name in said else None


def _message(message: Any, model: str) -> WholeMessage | None:
    """What a node says, without its parent; None where there is nothing to see."""
    if not isinstance(message, dict):
        return None
    author, metadata, content = (_object(message, name) for name in ("author", "metadata", "content"))
    role = author.get("role")
    if role not in ("user", "assistant", "tool") or message.get("weight") == 0:
        return None
    if metadata.get("is_visually_hidden_from_conversation") or metadata.get("is_user_system_message"):
        return None
    said = _CITATIONS.sub("", _content(content, recipient=message.get("recipient"))).strip("\n")
    attached = [f"[file: {_object({'a': each}, 'a').get('name')}]" for each in _list(metadata, "attachments")]
    said = "\n\n".join(part for part in (*attached, said) if part.strip())
    if not said or (role == "tool" and content.get("content_type") not in SHOWN_OF_TOOLS):
        return None
    used = metadata.get("model_slug") or model
    details = {"model": used} if role != "user" and isinstance(used, str) and used else {}
    return WholeMessage(
        None, "user" if role == "user" else "assistant", said, created=moment(message, "create_time"), details=details
    )


def _content(content: dict[str, Any], recipient: Any) -> str:
    kind = content.get("content_type")
    if kind in HIDDEN_TYPES:
        return ""
    if kind in ("code", "execution_output"):
        program = optional_text(content, "text")
        language = optional_text(content, "language")
        if not language or language == "unknown":
            language = recipient if recipient == "python" else ""
        return fenced(program, language if kind == "code" else "text") if program.strip() else ""
    if kind == "tether_quote":
        return "\n".join(filter(None, (optional_text(content, name) for name in ("title", "url", "text"))))
    parts = content.get("parts")
    if isinstance(parts, list):
        return "\n\n".join(filter(None, map(_part, parts)))
    return next((content[name] for name in ("text", "result", "content") if isinstance(content.get(name), str)), "")


def _part(part: Any) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, dict):
        return ""
    if isinstance(part.get("text"), str):  # what was heard
        return part["text"]
    kind = optional_text(part, "content_type")
    return PLACEHOLDERS.get(kind) or f"[{kind.replace('_', ' ') or 'something that is no text'}]"


def _object(fields: dict[str, Any], name: str) -> dict[str, Any]:
    value = fields.get(name)
    return value if isinstance(value, dict) else {}


def _list(fields: dict[str, Any], name: str) -> list[Any]:
    value = fields.get(name)
    return value if isinstance(value, list) else []


def _walk(nodes: dict[str, dict[str, Any]]) -> Iterator[tuple[str, str | None]]:
    """Yield the names of all nodes with those of their parents, parents before children, branch after branch."""
    children: dict[str, list[str]] = {}
    roots = []
    for name, node in nodes.items():
        parent = node.get("parent")
        if isinstance(parent, str) and parent in nodes and parent != name:
            children.setdefault(parent, []).append(name)
        else:
            roots.append(name)
    for name, node in nodes.items():  # the order among children is the one that their parent tells
        told = node.get("children")
        if isinstance(told, list) and name in children:
            order = {child: place for place, child in enumerate(told) if isinstance(child, str)}
            children[name].sort(key=lambda child: order.get(child, len(order)))
    seen: set[str] = set()
    waiting: list[tuple[str, str | None]] = [(root, None) for root in reversed(roots)]
    rest = iter(nodes)
    while len(seen) < len(nodes):
        if not waiting:  # a ring, which has no beginning
            waiting.append((next(name for name in rest if name not in seen), None))
        name, above = waiting.pop()
        if name not in seen:
            seen.add(name)
            yield name, above
            waiting += [(child, name) for child in reversed(children.get(name, []))]
