"""The messages of a chat as the transcript shows them."""

from collections.abc import Sequence

from .prompting import first_seen
from .store import StoredMessage
from .text import harmless
from .widgets.transcript import Entry

MARKER_KEY = -1
YOU, MODEL = "You", "Koala"
MAX_NAME = 48


def entries(path: Sequence[StoredMessage], *, folded: int = 0, continue_key: str = "/continue") -> list[Entry]:
    """Return the entries of the messages, with a marker where `folded` messages are out of the model's sight."""
    first = first_seen(path, folded)
    shown = []
    for message in path:
        if message is first:
            shown.append(Entry(MARKER_KEY, "marker", marker(folded)))
        shown.append(entry(message, continue_key=continue_key))
    return shown


def entry(message: StoredMessage, *, continue_key: str = "/continue") -> Entry:
    """Return the entry of one message."""
    is_user = message.role == "user"
    return Entry(
        key=message.id,
        kind="user" if is_user else "reply",
        text=message.content,
        speaker=YOU if is_user else harmless(message.details.get("model") or MODEL)[:MAX_NAME],
        note="" if is_user else note(message, continue_key),
        position=message.position,
        siblings=message.siblings,
        streaming=message.state == "streaming",
    )


def marker(folded: int) -> str:
    """Return the sentence that stands where the model's sight begins."""
    return f"⋯ {folded} earlier messages are folded away: the model no longer sees them"


def note(message: StoredMessage, continue_key: str) -> str:
    """Return what there is to note about a reply: why it ended early, and what can be done; mostly nothing."""
    if message.state == "streaming":
        return "being written in another window"
    if message.state == "complete":
        return "" if message.content else "the model ended its reply without a word"
    goes_on = f"{continue_key} continues it"
    reason = message.details.get("reason") or ""
    if reason == "cancelled":
        return f"stopped · {goes_on}"
    if reason == "length":
        limit = (message.details.get("sampling") or {}).get("max_tokens", "")
        return f"cut at max_tokens={limit} · {goes_on}; /set max_tokens=N allows more"
    if reason == "context":
        return "cut because the context is full · /new begins another chat, the model's settings make it larger"
    return f"interrupted · {goes_on}"
