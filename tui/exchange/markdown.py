"""A chat to be read: Markdown, the branch that is shown first, then the others.

No text is altered. Where a message as Markdown would not end with itself (a fence that stays open, HTML, the look of
another message's heading), it is put between fences.
"""

import json
import re
import time
from functools import cache
from typing import TYPE_CHECKING

from ..store import WholeChat, WholeMessage
from .fences import fenced

if TYPE_CHECKING:
    from markdown_it import MarkdownIt

SPEAKERS = {"user": "You", "assistant": "Assistant", "system": "System"}
STATES = {"partial": "not finished", "failed": "failed"}
OTHER_BRANCHES = "Other branches"

# What could be mistaken for a heading of ours.
_HEADING = re.compile(rf" {{0,3}}#{{1,2}}[ \t]+(?:\d+\.|{OTHER_BRANCHES})", re.MULTILINE)
_MARKUP = re.compile(r"([\\`*_{}\[\]<>#|~&$])")


def to_text(chat: WholeChat) -> str:
    """Return the chat as Markdown that ends with a newline."""
    shown = _shown(chat)
    numbers = {place: number for number, place in enumerate(shown, 1)}
    others = [place for place in range(len(chat.messages)) if place not in numbers]
    numbers |= {place: number for number, place in enumerate(others, len(shown) + 1)}
    siblings: dict[int | None, list[int]] = {}
    for place, message in enumerate(chat.messages):
        siblings.setdefault(message.parent, []).append(place)

    blocks = [f"# {_plain(chat.title) or 'A chat without a title'}"]
    if chat.created is not None:
        blocks.append(f"Begun on {_day(chat.created)}, {len(chat.messages)} messages.")
    if chat.settings:
        blocks.append("Settings:\n\n" + fenced(json.dumps(chat.settings, ensure_ascii=False, indent=2), "json"))
    for place in shown:
        blocks += _blocks(chat.messages[place], place, numbers, siblings, after=None)
    if others:
        blocks.append(f"## {OTHER_BRANCHES}")
    for place in others:
        parent = chat.messages[place].parent
        after = "at the beginning" if parent is None else f"after {numbers[parent]}"
        blocks += _blocks(chat.messages[place], place, numbers, siblings, after)
    if chat.draft:
        blocks += ["## Draft", _body(chat.draft)]
    return "\n\n".join(blocks) + "\n"


def _blocks(
    message: WholeMessage,
    place: int,
    numbers: dict[int, int],
    siblings: dict[int | None, list[int]],
    after: str | None,
) -> list[str]:
    beside = siblings[message.parent]
    model = message.details.get("model")
    facts = [
        f"‹{beside.index(place) + 1}/{len(beside)}›" if len(beside) > 1 else "",
        after or "",
        _day(message.created) if message.created is not None else "",
        _plain(model) if isinstance(model, str) else "",
        STATES.get(message.state, ""),
    ]
    speaker = SPEAKERS.get(message.role) or _plain(message.role)
    heading = " · ".join(filter(None, [f"## {numbers[place]}. {speaker}", *facts]))
    return [heading, _body(message.content)]


def _shown(chat: WholeChat) -> list[int]:
    """The places of the messages on the branch that is shown, the first one first."""
    shown = []
    place = chat.head
    while place is not None:
        shown.append(place)
        place = chat.messages[place].parent
    return shown[::-1]


def _body(text: str) -> str:
    if not text.strip():
        return "*(empty)*" if not text else fenced(text)
    return text if _stays_inside(text) else fenced(text, "markdown")


def _stays_inside(text: str) -> bool:
    """Whether the text, as Markdown, ends where it ends and changes nothing around it."""
    if _HEADING.search(text) or "\x00" in text:
        return False
    end = "koala"
    environment: dict = {}
    tokens = _parser().parse(f"{text}\n\n# {end}\n", environment)
    if environment.get("references"):
        return False  # definitions of links hold in the whole document
    if any(token.type.startswith("html") for top in tokens for token in (top, *(top.children or ()))):
        return False
    opening = tokens[-3] if len(tokens) >= 3 else None
    return opening is not None and opening.type == "heading_open" and opening.level == 0 and tokens[-2].content == end


@cache
def _parser() -> "MarkdownIt":
    from markdown_it import MarkdownIt  # an import that only an export needs

    return MarkdownIt("commonmark").enable("table")


def _plain(text: str) -> str:
    """A text on one line in which nothing is markup."""
    return _MARKUP.sub(r"\\\1", " ".join(text.split()))


def _day(at: float) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M", time.localtime(at))
    except (ValueError, OverflowError, OSError):
        return ""
