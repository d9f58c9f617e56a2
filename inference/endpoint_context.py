"""A conversation that has outgrown the context of a server, which counts the tokens and tells only when it refuses."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .endpoint_server import Refusal
from .engine import Message
from .errors import InputError
from .folding import ROOM_SHARE, leave_out, places

_OVERFLOW = re.compile(
    r"exceed_context_size|context_length_exceeded|(maximum|model'?s?|available|exceeds?( the)?) context"
    r"|context (length|size|window)|(prompt|input) is too long|too many (input )?tokens",
    re.IGNORECASE,
)
_CONTEXT = re.compile(r"context (?:length|size|window)\D{0,12}(\d{3,9})")
_PROMPT = re.compile(r"(\d+) (?:in the messages|input tokens|tokens from the input)|\((\d+) tokens\) exceeds")
# Where nobody has counted the tokens yet; low, so that rather too much is left out than silently cut.
CHARACTERS_PER_TOKEN = 3.0


@dataclass(frozen=True)
class Overflow:
    """How many tokens the context holds and the prompt has; None where the server does not tell."""

    n_ctx: int | None = None
    prompt_tokens: int | None = None


def overflow(refusal: Refusal) -> Overflow | None:
    """Return what the refusal says about the context, or None where something else is the matter."""
    error = refusal.body.get("error") if isinstance(refusal.body, dict) else None
    facts: dict[str, Any] = error if isinstance(error, dict) else {}
    said = f"{refusal.details} {facts.get('type')} {facts.get('code')}"
    if refusal.status not in (400, 413, 422, 500) or not _OVERFLOW.search(said):
        return None
    n_ctx, prompt_tokens = facts.get("n_ctx"), facts.get("n_prompt_tokens")
    if not isinstance(n_ctx, int) and (found := _CONTEXT.search(refusal.details)):
        n_ctx = int(found[1])
    if not isinstance(prompt_tokens, int) and (found := _PROMPT.search(refusal.details)):
        prompt_tokens = int(found[1] or found[2])
    return Overflow(
        n_ctx if isinstance(n_ctx, int) and n_ctx > 0 else None,
        prompt_tokens if isinstance(prompt_tokens, int) and prompt_tokens > 0 else None,
    )


def make_room(
    messages: Sequence[Message], folded: int, max_tokens: int, refused: Overflow, refusal: Refusal
) -> tuple[int, int]:
    """Return how many messages to leave out next, and how long the reply may be then.

    Where the prompt leaves enough room for an answer, a shorter limit is all that is needed. Else so many messages are
    left out that the prompt takes about half of the context, as far as that can be told.

    Raises:
        InputError: there is nothing left that could be left out.
    """
    n_ctx, tokens = refused.n_ctx, refused.prompt_tokens
    if n_ctx and tokens and min(max_tokens, n_ctx // ROOM_SHARE) <= n_ctx - tokens < max_tokens:
        return folded, n_ctx - tokens
    further = [place for place in places(messages) if place > folded]
    if not further:
        raise InputError(
            "the last message and what must go with it do not fit into the server's context; shorten it, or start the "
            f"server with a larger context ({refusal.details})"
        )
    if n_ctx and tokens:
        fitting = n_ctx / 2 * _size(messages, folded) / tokens
        enough = [place for place in further if _size(messages, place) <= fitting]
        return (enough or further[-1:])[0], max_tokens
    return further[len(further) // 2], max_tokens


def fold_ahead(
    messages: Sequence[Message], folded: int, max_tokens: int, n_ctx: int, characters_per_token: float
) -> int:
    """Return how many messages to leave out for a server that would cut the conversation without a word."""
    room = min(max_tokens, n_ctx // ROOM_SHARE)
    if _size(messages, folded) / characters_per_token + room <= n_ctx:
        return folded
    further = [place for place in places(messages) if place > folded]
    enough = [place for place in further if _size(messages, place) / characters_per_token <= n_ctx / 2]
    return next(iter(enough), further[-1] if further else folded)


def characters(messages: Sequence[Message]) -> int:
    """Return how long the messages are, with something for the marks between them."""
    return sum(len(message["content"]) + 16 for message in messages)


def _size(messages: Sequence[Message], folded: int) -> int:
    return characters(leave_out(messages, folded))
