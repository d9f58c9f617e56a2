"""What the model is told of a chat: from the messages on a path to the prompt, and back to where it was folded."""

from collections.abc import Sequence

from inference.engine import Message

from .store import StoredMessage


def prompt(path: Sequence[StoredMessage], system: str | None) -> list[Message]:
    """Return the messages for the engine: the system prompt, then user and assistant in turn.

    A question that got no answer joins the next one, since templates want the two to alternate.
    """
    messages: list[Message] = [{"role": "system", "content": system}] if system else []
    return messages + [{"role": group[0].role, "content": _text(group)} for group in _turns(path)]


def folded_so_far(path: Sequence[StoredMessage], n_ctx: int = 0) -> int:
    """Return how many messages the last reply on the path could not see any more, as its details say.

    A model with a larger context (`n_ctx` tokens) than that reply had begins again with all of them.
    """
    for message in reversed(path):
        if message.role == "assistant" and "folded" in message.details:
            had = (message.details.get("load") or {}).get("n_ctx", n_ctx)
            return int(message.details["folded"]) if n_ctx <= had else 0
    return 0


def first_seen(path: Sequence[StoredMessage], folded: int) -> StoredMessage | None:
    """Return the first message that the model still sees where `folded` messages are folded away; None for 0."""
    turns = _turns(path)
    return turns[folded][0] if 0 < folded < len(turns) else None


def _turns(path: Sequence[StoredMessage]) -> list[list[StoredMessage]]:
    turns: list[list[StoredMessage]] = []
    for message in path:
        if message.role == "system" or (message.role == "assistant" and not message.content and not _ended(message)):
            continue
        if turns and turns[-1][0].role == message.role:
            turns[-1].append(message)
        else:
            turns.append([message])
    return turns


def _ended(message: StoredMessage) -> bool:
    return message.state == "complete"


def _text(turn: list[StoredMessage]) -> str:
    return "\n\n".join(message.content for message in turn)
