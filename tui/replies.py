"""Replies in the making. Each belongs to its chat, and goes on whatever the screen shows meanwhile."""

import asyncio
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol

from inference.engine import Message, Stream
from inference.errors import EngineError
from inference.events import Delta, Finished, Folded, Loaded, PromptProgress, Queued
from inference.sampling import Sampling

from .keeper import Keeper
from .model_host import Endpoint, ModelHost
from .prompting import folded_so_far, prompt
from .store import StoredMessage

SAVE_SECONDS = 0.8  # what is said is on disk at most a second later
CLOSE_SECONDS = 3.0
LOADED_KEYS = ("n_ctx", "n_threads", "n_gpu_layers", "kv_type", "flash_attention", "mmap", "template")

Phase = Literal["loading", "waiting", "reading", "writing"]


@dataclass(eq=False)
class Reply:
    """A reply in the making, with the question that is asked with it, if there is one.

    `parent_id` is the message that both follow. The ids are None until they are stored. `text` is the whole reply,
    with what it continues. `ahead` replies come first; `done` of the prompt's `total` tokens are read. `error` is why
    it ended early. `given_back` says that nothing was said, so that the question is the user's again.
    """

    chat_id: int
    path: list[StoredMessage]
    sampling: Sampling
    system: str | None
    question: str | None = None
    continues: StoredMessage | None = None
    previous_head: int | None = None
    question_id: int | None = None
    message_id: int | None = None
    pieces: list[str] = field(default_factory=list)
    phase: Phase = "loading"
    ahead: int = 0
    done: int = 0
    total: int = 0
    tokens: int = 0
    folded: int = 0
    first_token_at: float | None = None
    began_at: float = field(default_factory=time.monotonic)
    finished: Finished | None = None
    error: EngineError | None = None
    given_back: bool = False
    state: str = "streaming"
    details: dict[str, Any] = field(default_factory=dict)
    stream: Stream | None = None
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    task: "asyncio.Task[None] | None" = None
    unsaved: bool = False

    @property
    def text(self) -> str:
        """All that was said."""
        if len(self.pieces) > 1:
            self.pieces[:] = ["".join(self.pieces)]
        return self.pieces[0] if self.pieces else ""

    @property
    def has_said_something(self) -> bool:
        """Whether there is anything new."""
        return self.tokens > 0

    @property
    def status(self) -> str:
        """What it does at the moment, in a few words."""
        if self.phase == "waiting":
            return f"waiting, {self.ahead} ahead"
        if self.phase == "reading" and self.total:
            return f"reading {100 * self.done // self.total} %"
        return self.phase

    @property
    def tokens_per_second(self) -> float:
        """The speed of writing so far; 0 where it cannot be told yet."""
        if self.first_token_at is None or self.tokens < 2:
            return 0.0
        return (self.tokens - 1) / max(1e-6, time.monotonic() - self.first_token_at)

    @property
    def seconds_to_first_token(self) -> float:
        """How long the first token took; 0 where it is not there yet."""
        return self.first_token_at - self.began_at if self.first_token_at is not None else 0.0

    def stop(self) -> None:
        """End it, whatever it does."""
        self.stopping.set()
        if self.stream is not None:
            self.stream.stop()


class Watcher(Protocol):
    """Whoever wants to know how the replies get on. Each method is called from the event loop."""

    def reply_began(self, reply: Reply) -> None:
        """The question and the reply have their ids."""

    def reply_changed(self, reply: Reply) -> None:
        """It does something else, or has got further."""

    def reply_wrote(self, reply: Reply, text: str) -> None:
        """There is more text."""

    def reply_folded(self, reply: Reply) -> None:
        """The model sees fewer messages than before."""

    def reply_ended(self, reply: Reply) -> None:
        """It is over and stored."""

    def reply_crashed(self, error: Exception) -> None:
        """Something happened that nobody has thought of."""


class ReplyRunner:
    """Makes replies, at most one for a chat at a time; the engine has those of several chats wait for each other."""

    def __init__(self, keeper: Keeper, host: ModelHost, watcher: Watcher) -> None:
        self._keeper, self._host, self._watcher = keeper, host, watcher
        self._replies: dict[int, Reply] = {}
        self._saving: asyncio.Task[None] | None = None
        self._closed = False
        self._storing = threading.Lock()

    # ---- asking

    def of(self, chat_id: int | None) -> Reply | None:
        """Return the reply that is being made in a chat, None where there is none."""
        stored = self._keeper.stored
        wanted = chat_id and stored(chat_id)
        return next((reply for reply in self._replies.values() if stored(reply.chat_id) == wanted), None)

    @property
    def active(self) -> list[Reply]:
        """All replies in the making, in the order of asking."""
        return list(self._replies.values())

    def ask(
        self, chat_id: int, path: Sequence[StoredMessage], question: str, sampling: Sampling, system: str | None,
        previous_head: int | None = None,
    ) -> Reply:  # fmt: skip
        """Add the user's message after `path` and have it answered.

        `previous_head` is shown again where nothing comes of it; None stands for the end of the path.
        """
        head = previous_head if previous_head is not None else _last_id(path)
        return self._begin(Reply(chat_id, list(path), sampling, system, question, previous_head=head))

    def regenerate(
        self, chat_id: int, path: Sequence[StoredMessage], sampling: Sampling, system: str | None,
        previous_head: int | None = None,
    ) -> Reply:  # fmt: skip
        """Have the user's message at the end of `path` answered, once more perhaps."""
        head = previous_head if previous_head is not None else _last_id(path)
        return self._begin(Reply(chat_id, list(path), sampling, system, previous_head=head))

    def go_on(self, chat_id: int, path: Sequence[StoredMessage], sampling: Sampling, system: str | None) -> Reply:
        """Let the reply at the end of `path` go on."""
        last = path[-1]
        reply = Reply(chat_id, list(path), sampling, system, continues=last, previous_head=last.id)
        reply.message_id, reply.pieces = last.id, [last.content]
        return self._begin(reply)

    def renumber(self) -> None:
        """Take over the ids that chats and messages got when they could be stored after all."""
        stored = self._keeper.stored
        for reply in self.active:
            reply.chat_id = stored(reply.chat_id)
            reply.message_id = reply.message_id and stored(reply.message_id)
            reply.question_id = reply.question_id and stored(reply.question_id)

    async def stop_all(self) -> None:
        """End all replies and wait until they are stored."""
        for reply in self.active:
            reply.stop()
        tasks = [reply.task for reply in self.active if reply.task is not None]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=CLOSE_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def close(self) -> None:
        """End all replies for good."""
        self._closed = True
        await self.stop_all()

    # ---- making

    def _report_crash(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and isinstance(error := task.exception(), Exception):
            self._watcher.reply_crashed(error)

    def _begin(self, reply: Reply) -> Reply:
        if self._closed:
            raise EngineError("the app is closing")
        reply.sampling = reply.sampling.with_seed()
        self._replies[id(reply)] = reply
        reply.task = asyncio.create_task(self._run(reply))
        reply.task.add_done_callback(self._report_crash)
        if self._saving is None or self._saving.done():
            self._saving = asyncio.create_task(self._keep_saving())
        return reply

    async def _run(self, reply: Reply) -> None:
        reason, crash = "error", None
        try:
            await asyncio.to_thread(self._store_beginning, reply)
            self._watcher.reply_began(reply)
            reason = await self._make(reply)
        except EngineError as error:
            reply.error = error
        except asyncio.CancelledError:
            reason = "cancelled"  # the app closes, and waits for the engine no longer
        except Exception as error:
            crash = error
        await asyncio.to_thread(self._store_end_alone, reply, reason)
        self._replies.pop(id(reply), None)
        self._watcher.reply_ended(reply)
        if crash is not None:
            raise crash

    async def _make(self, reply: Reply) -> str:
        """Have the engine write it and return why it ended."""
        if self._host.running is None:
            self._watcher.reply_changed(reply)
        engine = await self._engine_unless_stopped(reply)
        if engine is None:
            return "cancelled"
        loaded = engine.loaded
        reply.folded = folded_so_far(reply.path, loaded.n_ctx)
        stream = reply.stream = engine.generate(self._messages(reply), reply.sampling, folded=reply.folded)
        if reply.stopping.is_set():
            stream.stop()
        reply.phase = "reading"
        self._watcher.reply_changed(reply)
        try:
            async for event in stream:
                if isinstance(event, Delta):
                    if reply.first_token_at is None:
                        reply.first_token_at = time.monotonic()
                        reply.phase = "writing"
                        self._watcher.reply_changed(reply)
                    reply.pieces.append(event.text)
                    reply.tokens += event.tokens
                    reply.unsaved = True
                    self._watcher.reply_wrote(reply, event.text)
                elif isinstance(event, Finished):
                    reply.finished = event
                    reply.folded = event.folded
                elif isinstance(event, Folded):
                    reply.folded = event.messages
                    self._watcher.reply_folded(reply)
                else:
                    self._note(reply, event)
                    self._watcher.reply_changed(reply)
        finally:
            await stream.aclose()
        return reply.finished.reason if reply.finished is not None else "error"

    def _note(self, reply: Reply, event: Loaded | Queued | PromptProgress) -> None:
        if isinstance(event, Queued):
            reply.phase, reply.ahead = ("waiting", event.ahead) if event.ahead else ("reading", 0)
        elif isinstance(event, PromptProgress):
            reply.phase, reply.done, reply.total = "reading", event.done, event.total
        elif isinstance(event, Loaded):
            reply.phase = "reading"

    async def _engine_unless_stopped(self, reply: Reply):
        loading = asyncio.ensure_future(self._host.engine())
        stopping = asyncio.ensure_future(reply.stopping.wait())
        try:
            await asyncio.wait([loading, stopping], return_when=asyncio.FIRST_COMPLETED)
            return loading.result() if loading.done() else None
        finally:
            loading.cancel()
            stopping.cancel()
            with suppress(BaseException):
                await loading

    def _messages(self, reply: Reply) -> list[Message]:
        messages = prompt(reply.path, reply.system)
        if reply.question is None:
            return messages
        if messages and messages[-1]["role"] == "user":
            return [*messages[:-1], {"role": "user", "content": f"{messages[-1]['content']}\n\n{reply.question}"}]
        return [*messages, {"role": "user", "content": reply.question}]

    # ---- storing; these run in a thread

    def _store_beginning(self, reply: Reply) -> None:
        """Store the question, then an empty reply that is being written."""
        keeper = self._keeper
        parent = _last_id(reply.path)
        reply.details = self._details(reply, "")
        if reply.continues is not None:
            keeper.update(reply.chat_id, reply.message_id, state="streaming")
            return
        if reply.question is not None:
            parent = keeper.add(reply.chat_id, parent, "user", reply.question, durable=True)
            reply.question_id = parent
        reply.chat_id = keeper.stored(reply.chat_id)
        reply.message_id = keeper.add(reply.chat_id, parent, "assistant", "", state="streaming", details=reply.details)

    async def _keep_saving(self) -> None:
        while self._replies:
            await asyncio.sleep(SAVE_SECONDS)
            changed = [reply for reply in self.active if reply.unsaved and reply.message_id is not None]
            others = [reply for reply in self.active if not reply.unsaved and reply.message_id is not None]
            texts = [(reply, reply.text) for reply in changed]
            for reply in changed:
                reply.unsaved = False
            if texts or others:
                await asyncio.to_thread(self._save, texts, others)

    def _save(self, texts: list[tuple[Reply, str]], others: list[Reply]) -> None:
        with self._storing:
            for reply, text in texts:
                if reply.state == "streaming":
                    self._keeper.update(reply.chat_id, reply.message_id, content=text, state="streaming")
            self._keeper.heartbeat([reply.message_id for reply in others if reply.state == "streaming"])

    def _store_end_alone(self, reply: Reply, reason: str) -> None:
        with self._storing:  # a save on its way must not come after it
            self._store_end(reply, reason)

    def _store_end(self, reply: Reply, reason: str) -> None:
        keeper = self._keeper
        said = reply.has_said_something
        if not said and reason != "stop":
            self._store_nothing(reply)
            return
        reply.state = "complete" if reason == "stop" else "partial"
        reply.details = self._details(reply, reason)
        keeper.update(
            reply.chat_id, reply.message_id, content=reply.text, state=reply.state, details=reply.details, durable=True
        )

    def _store_nothing(self, reply: Reply) -> None:
        """Leave the chat as it was before."""
        keeper = self._keeper
        if reply.continues is not None:
            reply.state = reply.continues.state
            keeper.update(reply.chat_id, reply.message_id, state=reply.state)
            return
        reply.state = "failed"
        reply.given_back = True
        for number in (reply.message_id, reply.question_id):
            if number is not None:
                keeper.take_back(reply.chat_id, number)
        if reply.message_id is not None:
            keeper.set_head(reply.chat_id, reply.previous_head)

    def _details(self, reply: Reply, reason: str) -> dict[str, Any]:
        """Return everything that says how the reply came about."""
        host, finished = self._host, reply.finished
        details: dict[str, Any] = {"model": host.name, "sampling": asdict(reply.sampling), "reason": reason}
        if isinstance(host.target, Endpoint):
            details["endpoint"] = host.target.url
        if host.header is not None:
            details["quantization"] = host.header.quantization
        if host.loaded is not None:
            loaded = asdict(host.loaded)
            details["fingerprint"] = loaded["fingerprint"]
            details["load"] = {key: loaded[key] for key in LOADED_KEYS}
        if reply.system:
            details["system"] = reply.system
        if finished is not None:
            figures = asdict(finished)
            details["sampling"]["seed"] = figures.pop("seed")
            details |= figures
            details["tokens_per_second"] = finished.tokens_per_second
        elif reason:
            details |= {"completion_tokens": reply.tokens, "folded": reply.folded}
        if reply.error is not None:
            details["error"] = str(reply.error)
        if reply.continues is not None:
            before = dict(reply.continues.details)
            details["earlier"] = [*before.pop("earlier", []), before]
        return details


def _last_id(path: Sequence[StoredMessage]) -> int | None:
    return path[-1].id if path else None
