"""The one interface between whoever wants an answer and whatever gives it."""

from collections.abc import AsyncIterator, Sequence
from typing import Protocol, TypedDict

from .events import Event, Loaded
from .sampling import Sampling


class Message(TypedDict):
    """One message of a conversation; `role` is system, user or assistant."""

    role: str
    content: str


class Stream(Protocol):
    """The events of one reply: any Queued, any Loaded, Folded and PromptProgress, any Delta, then one Finished.

    A Loaded comes where the model had to be loaded again. A Folded may come once more between two Deltas, where the
    context filled up while the reply was written.

    Raises (while it is read):
        InputError: the conversation cannot be answered as it is, for instance because its last message alone is
            longer than the context.
        EngineError: the engine broke; the next reply starts it anew.
    """

    def __aiter__(self) -> AsyncIterator[Event]:
        """Return itself."""
        ...

    async def __anext__(self) -> Event:
        """Return the next event."""
        ...

    def stop(self) -> None:
        """End the reply, whatever it does at the moment; the stream closes with a Finished of reason "cancelled"."""
        ...

    async def aclose(self) -> None:
        """Leave the stream, which stops the reply."""
        ...


class Engine(Protocol):
    """A model that answers conversations, one at a time; further replies wait their turn in the order of asking."""

    @property
    def loaded(self) -> Loaded:
        """What the model is and how it runs."""
        ...

    def generate(self, messages: Sequence[Message], sampling: Sampling, *, folded: int = 0) -> Stream:
        """Return the events of the reply to `messages`; nothing happens before they are read.

        Where the last message is the assistant's, the reply continues it, and the Deltas hold what is new alone.
        The first `folded` messages after the system message are left out of the prompt, as a Folded or Finished
        of the reply before said; where that is not enough, more of them are, and a Folded says so.
        """
        ...

    async def count_tokens(self, messages: Sequence[Message], *, folded: int = 0) -> int | None:
        """Return how many tokens the prompt of `messages` has; None where only the endpoint could tell.

        Raises:
            EngineError: as `generate`.
        """
        ...

    async def close(self) -> None:
        """Let go of the model. The engine cannot be used afterwards."""
        ...
