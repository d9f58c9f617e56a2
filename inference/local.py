"""A GGUF on this machine: llama.cpp in a worker process, driven from asyncio."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import asdict
from pathlib import Path

from .engine import Message
from .errors import EngineError
from .events import Event, Finished, Loaded, PromptIds, Queued
from .load_options import LoadOptions
from .sampling import Sampling
from .waiting_line import WaitingLine
from .worker_process import WORKER_COMMAND, Request, WorkerProcess

LEFT_TO_THE_MACHINE = LoadOptions()


class LocalEngine:
    """An `Engine` whose model runs in a process of its own, so that a crash there is a sentence here.

    Make one with `await LocalEngine.start(path)`.
    """

    def __init__(self, path: str | Path, options: LoadOptions, command: Sequence[str]) -> None:
        self._path, self._options, self._command = str(path), options, tuple(command)
        self._line = WaitingLine()
        self._worker: WorkerProcess | None = None
        self._loading: asyncio.Task[WorkerProcess] | None = None
        self._loaded: Loaded | None = None
        self._announced: Loaded | None = None  # what those who read the streams know of
        self._closed = False

    @classmethod
    async def start(
        cls, path: str | Path, options: LoadOptions = LEFT_TO_THE_MACHINE, *, command: Sequence[str] = WORKER_COMMAND
    ) -> "LocalEngine":
        """Load the GGUF at `path` in a new process and return the engine when it is ready.

        `command` starts a process that speaks the worker's protocol.

        Raises:
            InputError: the file cannot be loaded, or not with these options.
            EngineError: the process ended before the model was ready.
        """
        engine = cls(path, options, command)
        try:
            await engine._ready()
        except BaseException:
            await engine.close()
            raise
        engine._announced = engine._loaded
        return engine

    @property
    def loaded(self) -> Loaded:
        """What the model is and how it runs."""
        if self._loaded is None:
            raise EngineError("the model is not loaded")
        return self._loaded

    @property
    def pid(self) -> int | None:
        """The process that holds the model, None where there is none at the moment."""
        return self._worker.process.pid if self._worker and self._worker.death is None else None

    @property
    def stderr(self) -> list[str]:
        """The last lines that the worker process wrote to its stderr."""
        return list(self._worker.stderr) if self._worker else []

    def generate(self, messages: Sequence[Message], sampling: Sampling, *, folded: int = 0) -> "LocalStream":
        """Return the events of the reply to `messages`; see `Engine.generate`."""
        return LocalStream(self, list(messages), sampling.with_seed(), folded)

    async def count_tokens(self, messages: Sequence[Message], *, folded: int = 0) -> int:
        """Return how many tokens the prompt of `messages` has; no reply in the making has to be waited for.

        Raises:
            InputError: the model's template refuses the conversation.
            EngineError: the engine broke.
        """
        return len(await self.prompt_ids(messages, folded=folded))

    async def prompt_ids(self, messages: Sequence[Message], *, folded: int = 0) -> list[int]:
        """Return the token ids that the conversation becomes, up to where the reply would begin or go on.

        Raises:
            InputError: the model's template refuses the conversation.
            EngineError: the engine broke.
        """
        worker = await self._ready()
        request = worker.ask("prompt", messages=list(messages), folded=folded)
        try:
            event = await request.next()
        finally:
            request.close()
        if not isinstance(event, PromptIds):
            raise EngineError(f"the model's process answered with {type(event).__name__} instead of token ids")
        return event.ids

    async def close(self) -> None:
        """End the worker process, by force if it does not go by itself. Closing twice is harmless."""
        self._closed = True
        if self._loading is not None and not self._loading.done():
            self._loading.cancel()
            await asyncio.wait([self._loading])
        if self._worker is not None:
            await self._worker.close()

    async def _answer(self, reply: "_Reply") -> AsyncIterator[Event]:
        """Wait for the reply's turn, then pass its events on."""
        self._line.join(reply.wake)
        try:
            said = 0
            while (ahead := self._line.ahead(reply.wake)) and not reply.stopped:
                reply.wake.clear()
                if ahead != said:
                    said = ahead
                    yield Queued(ahead)
                else:
                    await reply.wake.wait()
            last = reply.cancelled()
            async with aclosing(self._generate(reply)) as events:
                async for event in events:
                    if isinstance(event, Finished):
                        last = event
                    else:
                        yield event
        finally:
            self._line.leave(reply.wake)
        yield last  # the turn is over, also for those who read no further

    async def _generate(self, reply: "_Reply") -> AsyncIterator[Event]:
        """Have the worker answer, loading the model before where that is needed."""
        loading = self._load()
        loading.add_done_callback(lambda _: reply.wake.set())
        while not loading.done() and not reply.stopped:
            reply.wake.clear()
            await reply.wake.wait()
        if reply.stopped:
            return
        worker = _worker_of(loading)
        if self._announced is not self._loaded:
            self._announced = self._loaded
            yield self.loaded
        request = reply.request = worker.ask(
            "generate", messages=reply.messages, sampling=asdict(reply.sampling), folded=reply.folded
        )
        event: Event | None = None
        try:
            if reply.stopped:
                request.stop()
            while not isinstance(event, Finished):
                event = await request.next()
                yield event
        finally:
            reply.request = None
            if not isinstance(event, Finished):
                request.stop()
            request.close()

    async def _ready(self) -> WorkerProcess:
        """Return the worker with the model in it, loaded anew where it has died."""
        loading = self._load()
        await asyncio.wait([loading])
        return _worker_of(loading)

    def _load(self) -> "asyncio.Task[WorkerProcess]":
        """Return the task that loads the model, or has loaded it; whoever waits for it may leave without ending it."""
        if self._closed:
            raise EngineError("the engine is closed")
        task = self._loading
        if task is None or (
            task.done() and (task.cancelled() or task.exception() is not None or task.result().death is not None)
        ):
            task = self._loading = asyncio.create_task(self._start_worker())
            task.add_done_callback(lambda done: done.cancelled() or done.exception())  # somebody may have left
        return task

    async def _start_worker(self) -> WorkerProcess:
        if self._worker is not None:
            await self._worker.close()
        worker = self._worker = await WorkerProcess.start(self._command)
        request = worker.ask("load", path=self._path, options=asdict(self._options))
        try:
            event = await request.next()
            if not isinstance(event, Loaded):
                raise EngineError(f"the model's process answered with {type(event).__name__} instead of loading")
        except EngineError:
            await worker.close()
            raise
        finally:
            request.close()
        self._loaded = event
        return worker


def _worker_of(loading: "asyncio.Task[WorkerProcess]") -> WorkerProcess:
    if loading.cancelled():
        raise EngineError("the engine is closed")
    return loading.result()


class LocalStream:
    """The `Stream` of one reply; it takes its place in the line when it is first read.

    A stream that nobody holds any more ends by itself, so what runs must not hold it: that is the `_Reply`.
    """

    def __init__(self, engine: LocalEngine, messages: list[Message], sampling: Sampling, folded: int) -> None:
        self._reply = _Reply(messages, sampling, folded)
        self._events = engine._answer(self._reply)

    def __aiter__(self) -> "LocalStream":
        return self

    async def __anext__(self) -> Event:
        return await self._events.__anext__()

    def stop(self) -> None:
        """End the reply, also while it waits for its turn or for the model; a Finished still comes."""
        self._reply.stop()

    async def aclose(self) -> None:
        """Leave the stream, which stops the reply. One that somebody else is reading closes with a Finished."""
        self.stop()
        if not self._events.ag_running:
            await self._events.aclose()


class _Reply:
    """What is asked, whether it is to stop, and how to tell whoever is at work on it."""

    def __init__(self, messages: list[Message], sampling: Sampling, folded: int) -> None:
        self.messages, self.sampling, self.folded = messages, sampling, folded
        self.stopped = False
        self.wake = asyncio.Event()  # something has happened while no event of the worker was waited for
        self.request: Request | None = None

    def stop(self) -> None:
        self.stopped = True
        self.wake.set()
        if self.request is not None:
            self.request.stop()

    def cancelled(self) -> Finished:
        """Return the end of a reply that the engine never took up."""
        return Finished("cancelled", self.sampling.seed or 0, None, 0, 0, 0, 0.0, 0.0, None, folded=self.folded)
