"""The same message to two models, apart from how it looks: two paths through the tree of one chat.

Everything is in the store as it is said, both answers as siblings, so that nothing is lost whatever happens. The chat
goes on with the left answer, unless the right one is kept.
"""

import asyncio
import time
from collections.abc import Sequence
from typing import Protocol

from inference.errors import InputError
from inference.sampling import Sampling

from .keeper import Keeper
from .model_host import ModelHost
from .replies import Reply, ReplyRunner, Watcher
from .store import StoredMessage


class SideWatcher(Watcher, Protocol):
    """Whoever shows one side."""

    def side_waits(self) -> None:
        """It is to answer when the other side has."""


class Side:
    """One of the two conversations: its model, how it is asked, and its path through the tree."""

    def __init__(
        self, keeper: Keeper, host: ModelHost, sampling: Sampling, path: Sequence[StoredMessage], watcher: SideWatcher
    ) -> None:
        self.host, self.sampling, self.path, self.watcher = host, sampling, list(path), watcher
        self.runner = ReplyRunner(keeper, host, watcher)
        self.reply: Reply | None = None

    @property
    def end(self) -> int | None:
        """The id of its last message."""
        return self.path[-1].id if self.path else None


class Comparison:
    """Two models in one chat.

    One answers after the other, as they share the processor; or both at once with `together`. With `in_turn` there is
    not enough memory for both, and each is loaded when it is its turn.
    """

    def __init__(self, keeper: Keeper, left: Side, right: Side, system: str | None) -> None:
        self._keeper, self.system = keeper, system
        self.chat_id: int | None = None  # until something is said
        self.left, self.right = left, right
        self.together = False
        self.in_turn = False
        self._task: asyncio.Task[bool] | None = None
        self._stopping = False

    @property
    def sides(self) -> tuple[Side, Side]:
        """Both, the left one first."""
        return self.left, self.right

    @property
    def busy(self) -> bool:
        """Whether an answer is being made."""
        return self._task is not None and not self._task.done()

    def ask(self, chat_id: int, text: str) -> "asyncio.Task[bool]":
        """Say `text` to both in the chat, always the same one.

        The task's result is whether anything came of it; what comes to nothing is taken back.

        Raises:
            InputError: the last message is still being answered.
        """
        if self.busy:
            raise InputError("both must have answered before the next message; Esc stops them")
        self.chat_id, self._stopping = chat_id, False
        self._task = asyncio.create_task(self._ask(text))
        return self._task

    def stop(self) -> None:
        """End both answers; what was said stays."""
        self._stopping = True
        for side in self.sides:
            if side.reply is not None:
                side.reply.stop()

    async def keep(self, side: Side) -> None:
        """Let the chat go on with this side's answers."""
        await self._stop_and_wait()
        if side.end is not None and self.chat_id is not None:
            await asyncio.to_thread(self._keeper.set_head, self.chat_id, side.end)

    async def close(self) -> None:
        """End everything and let go of the second model."""
        await self._stop_and_wait()
        for side in self.sides:
            await side.runner.close()
        await self.right.host.close()

    async def _stop_and_wait(self) -> None:
        self.stop()
        if self._task is not None:
            await asyncio.wait([self._task])

    async def _ask(self, text: str) -> bool:
        questions = await asyncio.to_thread(self._store_questions, text)
        turns = list(zip(self.sides, questions, strict=True))
        if self.together and not self.in_turn:
            answered = await asyncio.gather(*(self._answer(side, question) for side, question in turns))
        else:
            self.right.watcher.side_waits()
            answered = [await self._answer(side, question) for side, question in turns]
        await asyncio.to_thread(self._settle, questions, answered)
        return any(answered)

    async def _answer(self, side: Side, question: StoredMessage) -> bool:
        """Have one side answer; return whether it said anything."""
        if self._stopping:
            return False
        other = self.right if side is self.left else self.left
        if self.in_turn and other.host.running is not None:
            await other.host.unload()
        path = [*side.path, question]
        reply = side.reply = side.runner.regenerate(question.chat_id, path, side.sampling, self.system, question.id)
        await asyncio.wait([reply.task])
        side.reply = None
        if reply.given_back:
            return False
        end = StoredMessage(
            reply.message_id, question.chat_id, question.id, "assistant", reply.text, reply.state, time.time(),
            reply.details, 1, 1,
        )  # fmt: skip
        side.path = [*path, end]
        return True

    def _store_questions(self, text: str) -> tuple[StoredMessage, StoredMessage]:
        """Store the message under the end of each side; as long as these are the same, it is one message."""
        left = self._store_question(self.left, text)
        same = self.left.end == self.right.end
        return left, left if same else self._store_question(self.right, text)

    def _store_question(self, side: Side, text: str) -> StoredMessage:
        number = self._keeper.add(self.chat_id, side.end, "user", text, durable=True)
        self.chat_id = self._keeper.stored(self.chat_id)
        return StoredMessage(number, self.chat_id, side.end, "user", text, "complete", time.time(), {}, 1, 1)

    def _settle(self, questions: Sequence[StoredMessage], answered: Sequence[bool]) -> None:
        """Take back the questions that nobody answered, and show the left side's end."""
        said = {question.id for question, answer in zip(questions, answered, strict=True) if answer}
        for number in sorted({question.id for question in questions} - said, key=abs, reverse=True):
            self._keeper.take_back(self.chat_id, number)
        end = self.left.end if answered[0] or not answered[1] else self.right.end
        self._keeper.set_head(self.chat_id, end)
