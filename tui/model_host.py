"""The one model that the app has loaded: loading it, exchanging it for another, letting go of it."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from inference.engine import Engine
from inference.errors import EngineError, InputError
from inference.events import Loaded
from inference.gguf_header import GGUFHeader, read_header
from inference.load_options import LoadOptions


@dataclass(frozen=True)
class Endpoint:
    """An OpenAI-compatible server, and which of its models."""

    url: str
    model: str | None = None


Target = Path | Endpoint
State = Literal["none", "loading", "ready", "failed"]
StartEngine = Callable[[Target, LoadOptions], Awaitable[Engine]]


class ModelHost:
    """Loads a model when it is asked for, and at most one at a time.

    `target` is what is to be loaded, `header` what the file says about itself (None until it has been read, and of an
    endpoint). `error` is why loading failed. `changed` is called after each change of any of these; `release` is
    awaited before a model is let go of for another.
    """

    def __init__(self, start: StartEngine, target: Target | None, options: LoadOptions) -> None:
        self._start, self.target, self.options = start, target, options
        self.header: GGUFHeader | None = None
        self.error: EngineError | None = None
        self.changed: Callable[[], None] = lambda: None
        self.release: Callable[[], Awaitable[None]] | None = None
        self._loading: asyncio.Task[Engine] | None = None
        self._exchange = asyncio.Lock()  # nobody may begin to load the old model while it is let go of
        self._closed = False

    @property
    def state(self) -> State:
        """Whether there is a model, and whether it can answer."""
        if self.target is None:
            return "none"
        if self.error is not None:
            return "failed"
        return "ready" if self.running is not None else "loading"

    @property
    def running(self) -> Engine | None:
        """The engine, once it is ready."""
        task = self._loading
        if task is None or not task.done() or task.cancelled() or task.exception() is not None:
            return None
        return task.result()

    @property
    def loaded(self) -> Loaded | None:
        """What the model is and how it runs, once it is ready."""
        return self.running.loaded if self.running is not None else None

    @property
    def pid(self) -> int | None:
        """The process that holds the model; None where there is none on this machine."""
        return getattr(self.running, "pid", None)

    @property
    def name(self) -> str:
        """How the model calls itself, or else its file; "" where there is none."""
        if self.loaded is not None and self.loaded.name:
            return self.loaded.name
        if self.header is not None and self.header.name:
            return self.header.name
        if isinstance(self.target, Endpoint):
            return self.target.model or self.target.url
        return self.target.stem if self.target is not None else ""

    async def engine(self) -> Engine:
        """Return the engine, after loading it where that has not been done or has failed. May be cancelled freely.

        Raises:
            InputError: there is no model, or its file cannot be loaded.
            EngineError: loading it failed.
        """
        async with self._exchange:
            if self._closed:
                raise EngineError("the app is closing")
            if self.target is None:
                raise InputError("there is no model yet; Ctrl+O or /model chooses one")
            if self._loading is None or (self._loading.done() and self.running is None):
                self.error = None
                self._loading = asyncio.create_task(self._load(self.target, self.options))
                self._loading.add_done_callback(lambda task: task.cancelled() or task.exception())
                self.changed()
            loading = self._loading
        return await asyncio.shield(loading)

    async def load(self) -> None:
        """Load the model, if there is one to load; a failure is in `error` alone."""
        if self.target is not None:
            try:
                await self.engine()
            except EngineError:
                return

    async def switch(self, target: Target, options: LoadOptions | None = None) -> None:
        """Let go of the model and load another. The app goes on whatever comes of it.

        Raises:
            InputError, EngineError: the new one cannot be loaded; it stays chosen, so that it can be tried again.
        """
        async with self._exchange:
            if self.release is not None:
                await self.release()
            await self._let_go()
            self.target, self.header, self.error = target, None, None
            self.options = self.options if options is None else options
        await self.engine()

    def another(self, target: Target, options: LoadOptions) -> "ModelHost":
        """Return a host for a second model, which is nothing to this one."""
        return ModelHost(self._start, target, options)

    async def unload(self) -> None:
        """Let go of the model until it is asked for again, so that another one has room."""
        async with self._exchange:
            if self.release is not None:
                await self.release()
            await self._let_go()
        self.changed()

    async def close(self) -> None:
        """Let go of the model for good."""
        self._closed = True
        async with self._exchange:
            await self._let_go()

    async def _let_go(self) -> None:
        task, self._loading = self._loading, None
        if task is None:
            return
        if not task.done():
            task.cancel()
        [engine] = await asyncio.gather(task, return_exceptions=True)
        if not isinstance(engine, BaseException):
            await engine.close()

    async def _load(self, target: Target, options: LoadOptions) -> Engine:
        reading = asyncio.create_task(self._read_header(target))
        try:
            return await self._start(target, options)
        except EngineError as error:
            self.error = error
            raise
        finally:
            await asyncio.wait([reading])
            asyncio.get_running_loop().call_soon(self.changed)  # when this task is done

    async def _read_header(self, target: Target) -> None:
        if isinstance(target, Path):
            try:
                header = await asyncio.to_thread(read_header, target)
            except EngineError:
                return  # loading says it better
            if target == self.target:
                self.header = header
                self.changed()


async def start_engine(target: Target, options: LoadOptions) -> Engine:
    """Load a GGUF in a process of its own, or reach out to an endpoint.

    Raises:
        InputError, EngineError: it cannot be loaded or reached.
    """
    if isinstance(target, Path):
        from inference.local import LocalEngine

        return await LocalEngine.start(target, options)
    from inference.endpoint import EndpointEngine

    return await EndpointEngine.start(target.url, target.model)
