"""When what a model has read is put away on disk, and when it is taken out again."""

import time
from array import array
from collections.abc import Sequence
from contextlib import suppress

from .llama_model import LlamaModel
from .prompt import Prompt, PromptEncoder, Span
from .sequence_cache import Damaged, SequenceCache, shared_beginning

LONG = 256  # tokens: reading fewer of them again is not worth a file
WORTH_LOADING = 64
IDLE_SECONDS = 1.0
NEW_SHARE = 8  # a long sequence is written as a whole, so not before an eighth of it is new


class ContextKeeper:
    """Keeps the sequence in a model's context from being lost; without a cache it does nothing.

    It is saved when nothing has been asked for a while, before another one takes its place, and at the end.
    """

    def __init__(self, model: LlamaModel, encoder: PromptEncoder, cache: SequenceCache | None) -> None:
        self._model, self._encoder, self._cache = model, encoder, cache
        self._replies: list[Span] = []
        self._on_disk = array("i")
        self._due_at: float | None = None

    def recall(self) -> None:
        """Remember the replies in sequences that have been saved since the last time, perhaps by other processes."""
        for saved in self._cache.look() if self._cache else ():
            self._encoder.restore(saved.ids, saved.replies)

    def prepare(self, prompt: Prompt, *, replaces: bool = False) -> int:
        """Make the context hold as much of the prompt as is known; return how many tokens come from the disk for it.

        `replaces` tells that nobody will ask for what the context holds any more.
        """
        if self._cache is None:
            return 0
        self._due_at = None
        held = shared_beginning(array("i", self._model.context_ids), array("i", prompt.ids[:-1]))
        if not self._model.can_trim and held < len(self._model.context_ids):
            held = 0
        lost = len(self._model.context_ids) - held
        if lost >= LONG and self._unsaved() >= LONG and not replaces:
            self._save()
        saved, shared = self._cache.best(prompt.ids[:-1], whole=not self._model.can_trim)
        if saved is None or shared - held < WORTH_LOADING:
            return 0
        with suppress(Damaged, OSError), self._cache.state(saved) as state:
            if self._model.restore_state(state, saved.ids):
                self._on_disk = saved.ids
                return shared
            self._cache.drop(saved)
        return 0

    def settle(self, replies: Sequence[Span]) -> None:
        """Take notice that a reply has ended; `replies` stand in the context as they were sampled."""
        held = len(self._model.context_ids)
        self._replies = [span for span in replies if span.start + span.length <= held]
        if self._cache is not None and self._unsaved() >= max(LONG, held // NEW_SHARE):
            self._due_at = time.monotonic() + IDLE_SECONDS

    def seconds_left(self) -> float | None:
        """Return in how many seconds something is to be saved if nothing else happens; None for not at all."""
        return None if self._due_at is None else max(0.0, self._due_at - time.monotonic())

    def save(self) -> None:
        """Save the context now."""
        self._due_at = None
        self._save()

    def close(self) -> None:
        """Save what would be lost with the process, and wait until it is on disk."""
        if self._cache is None:
            return
        if len(self._model.context_ids) >= LONG and self._unsaved() >= WORTH_LOADING:
            self._save()
        self._cache.finish()

    def _unsaved(self) -> int:
        ids = array("i", self._model.context_ids)
        return len(ids) - shared_beginning(self._on_disk, ids)

    def _save(self) -> None:
        model = self._model
        if self._cache.save(model.context_ids, self._replies, model.state_size(), model.copy_state):
            self._on_disk = array("i", model.context_ids)
