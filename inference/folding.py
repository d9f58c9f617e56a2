"""What is left out of a prompt when the conversation has outgrown the context.

The oldest turns go first, whole turns at a time, and so many at once that the prompt then takes about half of the
context: its beginning stays as it is for many turns, and each of them evaluates only what is new. The system message
and the last turn stay, whatever happens.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from .engine import Message
from .errors import InputError

if TYPE_CHECKING:
    from .prompt import Prompt

# What a reply may take of the context at most when the conversation before it has to give way.
ROOM_SHARE = 4
# Reading half of the context again for less than this share of it is not worth the while.
LEAST_SHARE = 16


def places(messages: Sequence[Message]) -> list[int]:
    """Return, rising from 0, how many messages after the system message can be left out.

    What is left begins with a user message and holds the last of these.
    """
    system = system_messages(messages)
    return sorted({0, *(at - system for at in range(system, len(messages)) if messages[at]["role"] == "user")})


def system_messages(messages: Sequence[Message]) -> int:
    """Return how many messages stand at the beginning and are never left out."""
    count = 0
    while count < len(messages) and messages[count]["role"] == "system":
        count += 1
    return count


def possible(messages: Sequence[Message], folded: int) -> int:
    """Return the largest number of messages up to `folded` that can be left out."""
    return max(place for place in places(messages) if place <= max(folded, 0))


def leave_out(messages: Sequence[Message], folded: int) -> list[Message]:
    """Return the messages without the first `folded` after the system message, or without as many as is possible."""
    system = system_messages(messages)
    return [*messages[:system], *messages[system + possible(messages, folded) :]]


def fold(messages: Sequence[Message], folded: int, size: Callable[[int], int], n_ctx: int, room: int) -> int:
    """Return how many messages to leave out, at least `folded` where that is possible.

    `size` tells how many tokens the prompt has without that many messages; the more are left out, the smaller it is.
    More than `folded` are left out only where the prompt would not leave `room` tokens of the context, `n_ctx`; then
    so many that it fills half of the context, or all that can be. Even that may not be enough.
    """
    kept = possible(messages, folded)
    if size(kept) + room <= n_ctx:
        return kept
    further = [place for place in places(messages) if place > kept]
    if not further:
        return kept
    enough = bisect_left(further, True, key=lambda place: size(place) <= n_ctx // 2)
    return further[min(enough, len(further) - 1)]


class FoldedPrompt:
    """The prompt of one conversation, with as much folded away as its context demands.

    `encode` makes the prompt without so many messages. `folded` is how many are left out in the end.
    """

    def __init__(
        self,
        messages: Sequence[Message],
        folded: int,
        encode: Callable[[Sequence[Message], int], "Prompt"],
        *,
        n_ctx: int,
        n_ctx_train: int = 0,
    ) -> None:
        self._messages, self._encode, self._n_ctx, self._n_ctx_train = messages, encode, n_ctx, n_ctx_train
        self._prompts: dict[int, Prompt] = {}
        self.folded = folded

    def begin(self, max_tokens: int) -> "Prompt":
        """Return the prompt that leaves room for a reply of up to `max_tokens`, where folding can bring that about.

        Raises:
            InputError: the system message and the last turn alone do not fit.
        """
        room = min(max_tokens, self._n_ctx // ROOM_SHARE)
        self.folded = fold(self._messages, self.folded, self._size, self._n_ctx, room)
        size = self._size(self.folded)
        if size >= self._n_ctx:
            raise self._too_long(size)
        return self._prompt(self.folded)

    def shorten(self, reply_tokens: int) -> "tuple[int, Prompt] | None":
        """Return how many messages to leave out now and the prompt without them, or None where none can go.

        A reply of so many tokens has filled the context; the prompt leaves it room to go on.
        """
        room = max(1, self._n_ctx // LEAST_SHARE)
        further = fold(self._messages, self.folded, lambda place: self._size(place) + reply_tokens, self._n_ctx, room)
        if further == self.folded or self._size(further) + reply_tokens + room > self._n_ctx:
            return None
        self.folded = further
        return further, self._prompt(further)

    def _size(self, folded: int) -> int:
        return len(self._prompt(folded).ids)

    def _prompt(self, folded: int) -> "Prompt":
        if folded not in self._prompts:
            self._prompts[folded] = self._encode(self._messages, folded)
        return self._prompts[folded]

    def _too_long(self, size: int) -> InputError:
        hint = "shorten it"
        if self._n_ctx_train > self._n_ctx:
            hint += f", or load the model with a larger context (it was trained for {self._n_ctx_train:,} tokens)"
        return InputError(
            f"the last message and what must go with it are {size:,} tokens long, and the context holds "
            f"{self._n_ctx:,}; {hint}"
        )
