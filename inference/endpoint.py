"""A model behind an OpenAI-compatible server: llama-server, vLLM, Ollama and others."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from .endpoint_context import CHARACTERS_PER_TOKEN, characters, fold_ahead, make_room, overflow
from .endpoint_reply import DONE, ReplyReader
from .endpoint_request import RequestForm
from .endpoint_server import (
    Refusal,
    ServedModel,
    Server,
    choose_model,
    connect,
    find_address,
    find_key,
    list_models,
    read_body,
)
from .engine import Message
from .errors import EngineError
from .events import Delta, Event, Finished, Folded, Loaded, PromptProgress, Queued
from .folding import leave_out, possible
from .sampling import Sampling
from .sse import EventParser
from .waiting_line import WaitingLine

if TYPE_CHECKING:
    import httpx2

__all__ = ["EndpointEngine", "EndpointStream", "list_models"]

Reason = Literal["stop", "length", "cancelled", "context"]
LAST_WORDS_SECONDS = 2.0  # how long figures are waited for once the reply is over
CLOSING_SECONDS = 1.0


class EndpointEngine:
    """An `Engine` whose model runs in somebody else's server. Nothing but the conversation is sent there.

    Make one with `await EndpointEngine.start(url)`.
    """

    def __init__(self, server: Server, model: ServedModel) -> None:
        self._server, self._model = server, model
        self._form = RequestForm(model.id, model.kind)
        self._line = WaitingLine()
        self._loaded = _loaded(server, model)
        self._characters_per_token = CHARACTERS_PER_TOKEN
        self._streams: set[EndpointStream] = set()
        self._closed = False

    @classmethod
    async def start(cls, url: str, model: str | None = None, api_key: str | None = None) -> "EndpointEngine":
        """Reach out to the server at `url`, with or without its /v1, and return the engine for one of its models.

        The model need not be named where the server has only one. Without `api_key`, the key is that of KOALA_API_KEY
        or OPENAI_API_KEY, the latter only to this machine or encrypted.

        Raises:
            InputError: there is no such server, it refuses the key, or it has no such model.
            EngineError: it cannot be reached, or failed.
        """
        address = find_address(url)
        server = await connect(address, find_key(address, api_key))
        try:
            engine = cls(server, await _find_model(server, model))
            await engine._ask_for_context()
        except BaseException:
            await server.close()
            raise
        return engine

    @property
    def loaded(self) -> Loaded:
        """What is known of the model."""
        return self._loaded

    @property
    def ignored(self) -> set[str]:
        """The settings that have no effect on this server, as far as is known; a refusal may add some."""
        return self._form.ignored

    def generate(self, messages: Sequence[Message], sampling: Sampling, *, folded: int = 0) -> "EndpointStream":
        """Return the events of the reply to `messages`; see `Engine.generate`."""
        return EndpointStream(self, list(messages), sampling.with_seed(), folded)

    async def count_tokens(self, messages: Sequence[Message], *, folded: int = 0) -> None:
        """Return None, as only the server could tell."""
        return None

    async def close(self) -> None:
        """End all replies and close the connections. Closing twice is harmless."""
        self._closed = True
        for stream in list(self._streams):
            stream.stop()
        await self._server.close()

    async def _ask_for_context(self) -> None:
        """Find out how many tokens the context holds, where the server tells that in a place of its own."""
        if self._loaded.n_ctx:
            return
        with suppress(EngineError):
            if self._model.kind == "llama-server":
                props = await self._server.ask(f"{self._server.address.root}/props")
                self._set_context(_inside(props, "default_generation_settings", "n_ctx"))
            elif self._model.kind == "Ollama":
                running = _inside(await self._server.ask(f"{self._server.address.root}/api/ps"), "models")
                for model in running if isinstance(running, list) else ():
                    if self._model.id in (_inside(model, "name"), _inside(model, "model")):
                        self._set_context(_inside(model, "context_length"))

    def _set_context(self, n_ctx: Any) -> None:
        if isinstance(n_ctx, int) and n_ctx > 0:
            self._loaded = replace(self._loaded, n_ctx=n_ctx)


class NothingCame(EngineError):
    """The stream ended before it began, which is how some servers fail."""


class EndpointStream:
    """The `Stream` of one reply; it takes its place in the line when it is first read."""

    def __init__(self, engine: EndpointEngine, messages: list[Message], sampling: Sampling, folded: int) -> None:
        self._engine, self._messages, self._sampling = engine, messages, sampling
        self._folded = possible(messages, folded)
        self._max_tokens = sampling.max_tokens
        self._reader = ReplyReader(messages[-1]["content"] if messages and messages[-1]["role"] == "assistant" else "")
        self._stopped = False
        self._wake = asyncio.Event()
        self._events_ahead: asyncio.Queue[Event | Exception | None] = asyncio.Queue()
        self._exchange: asyncio.Task[None] | None = None
        self._begun = self._first = self._last = 0.0
        self._pieces = 0
        self._events = self._run()

    def __aiter__(self) -> "EndpointStream":
        return self

    async def __anext__(self) -> Event:
        return await self._events.__anext__()

    def stop(self) -> None:
        """End the reply by closing the connection, also while it waits for its turn; a Finished still comes."""
        self._stopped = True
        self._wake.set()
        if self._exchange is not None:
            self._exchange.cancel()

    async def aclose(self) -> None:
        """Leave the stream, which stops the reply. One that somebody else is reading closes with a Finished."""
        self.stop()
        if not self._events.ag_running:
            await self._events.aclose()

    async def _run(self) -> AsyncIterator[Event]:
        engine = self._engine
        if engine._closed:
            raise EngineError("the engine is closed")
        engine._line.join(self._wake)
        engine._streams.add(self)
        try:
            said = 0
            while (ahead := engine._line.ahead(self._wake)) and not self._stopped:
                self._wake.clear()
                if ahead != said:
                    said = ahead
                    yield Queued(ahead)
                else:
                    await self._wake.wait()
            async with aclosing(self._answer()) as events:
                async for event in events:
                    yield event
        finally:
            engine._streams.discard(self)
            engine._line.leave(self._wake)

    async def _answer(self) -> AsyncIterator[Event]:
        self._begun = time.perf_counter()
        if self._stopped:
            yield self._finished("cancelled")
            return
        exchange = self._exchange = asyncio.create_task(self._pass_on())
        try:
            while (event := await self._events_ahead.get()) is not None:
                if isinstance(event, Exception):
                    raise event
                yield event
        finally:
            exchange.cancel()
            await asyncio.wait([exchange], timeout=CLOSING_SECONDS)

    async def _pass_on(self) -> None:
        """Put what comes of the request where the reader of the stream finds it, with None at the end."""
        import httpx2

        put, is_over = self._events_ahead.put_nowait, False
        try:
            async with aclosing(self._ask()) as events:
                async for event in events:
                    put(event)
                    is_over = isinstance(event, Finished)
        except asyncio.CancelledError:
            if not is_over:
                put(self._finished("cancelled"))
        except httpx2.HTTPError as error:
            put(self._engine._server.failure(error))
        except Exception as error:
            put(error)
        finally:
            put(None)

    async def _ask(self) -> AsyncIterator[Event]:
        """Yield the events of the reply, asked for as often and in such forms as it takes."""
        engine, folded = self._engine, self._folded
        if engine._model.kind == "Ollama" and engine.loaded.n_ctx:
            self._folded = fold_ahead(
                self._messages, folded, self._max_tokens, engine.loaded.n_ctx, engine._characters_per_token
            )
        form, streams, first_refusal = engine._form, True, None
        while True:
            if self._folded != folded:
                folded = self._folded
                yield Folded(folded)
            prompt = leave_out(self._messages, folded)
            body = form.body(prompt, self._sampling, self._max_tokens, streams=streams)
            try:
                async with engine._server.ask_for_reply(body) as response:
                    engine._form = form
                    async for event in self._read(response):
                        yield event
                break
            except NothingCame:
                if not streams:
                    raise
                streams = False  # then it has to say why
            except Refusal as refusal:
                if too_long := overflow(refusal):
                    engine._set_context(too_long.n_ctx)
                    room = make_room(self._messages, folded, self._max_tokens, too_long, refusal)
                    self._folded, self._max_tokens = room
                    streams = True
                    continue
                first_refusal = first_refusal or refusal
                following = form.after(refusal, body)
                if following is None:
                    raise first_refusal from None
                form = following
        if self._reader.prompt_tokens:
            engine._characters_per_token = characters(prompt) / self._reader.prompt_tokens
        await engine._ask_for_context()
        yield self._finished(self._reason())

    async def _read(self, response: "httpx2.Response") -> AsyncIterator[Event]:
        """Yield what the response streams, or holds as a whole where the server does not stream."""
        reader, parser = self._reader, EventParser()
        if "json" in response.headers.get("Content-Type", ""):
            for event in self._convert(reader.read((await read_body(response)).decode("utf-8", errors="replace"))):
                yield event
            return
        pieces = response.aiter_bytes().__aiter__()
        while not reader.ended:
            try:
                piece = await asyncio.wait_for(anext(pieces), LAST_WORDS_SECONDS if reader.reason else None)
            except StopAsyncIteration:
                break
            except Exception:
                if reader.reason:  # everything was said
                    break
                raise
            for data in parser.feed(piece):
                for event in self._convert(reader.read(data)):
                    yield event
        for data in parser.end():
            if data.rstrip().endswith(("}", DONE)):  # not cut in the middle
                for event in self._convert(reader.read(data)):
                    yield event
        if rest := reader.rest():
            yield self._delta(rest)
        if not reader.reason and not reader.ended:
            kind = NothingCame if reader.is_empty else EngineError
            raise kind(f"{self._engine._server.address.shown} broke off in the middle of the reply")

    def _convert(self, read: Iterable[str | PromptProgress]) -> Iterator[Event]:
        for part in read:
            yield part if isinstance(part, PromptProgress) else self._delta(part)

    def _delta(self, text: str) -> Delta:
        self._last = time.perf_counter()
        self._first = self._first or self._last
        self._pieces += 1
        return Delta(text)

    def _reason(self) -> Reason:
        if self._reader.reason != "length":
            return "stop"
        written = self._reader.completion_tokens
        shortened = self._max_tokens < self._sampling.max_tokens
        return "context" if shortened or (written is not None and written < self._max_tokens) else "length"

    def _finished(self, reason: Reason) -> Finished:
        """Return the end of the reply, timed here."""
        reader, now = self._reader, time.perf_counter()
        prompt, cached = reader.prompt_tokens, reader.cached_tokens
        return Finished(
            reason=reason,
            seed=self._sampling.seed or 0,
            prompt_tokens=prompt,
            evaluated_tokens=prompt - cached if prompt is not None and cached is not None else None,
            cached_tokens=cached,
            completion_tokens=reader.completion_tokens if reader.completion_tokens is not None else self._pieces,
            prompt_seconds=(self._first or now) - self._begun,
            decode_seconds=self._last - self._first,
            time_to_first_token=self._first - self._begun if self._first else None,
            folded=self._folded,
        )


async def _find_model(server: Server, wanted: str | None) -> ServedModel:
    try:
        return choose_model(await server.models(), wanted)
    except Refusal as refusal:
        if refusal.status in (404, 405, 501) and wanted is not None:
            return ServedModel(wanted, "", {})  # the list is a courtesy
        raise


def _loaded(server: Server, model: ServedModel) -> Loaded:
    facts = model.facts

    def count(*path: str) -> int:
        value = _inside(facts, *path)
        return value if isinstance(value, int) and value > 0 else 0

    return Loaded(
        name=model.name,
        description=f"{model.kind or 'a server'} at {server.address.shown}",
        n_ctx=count("max_model_len") or count("meta", "n_ctx") or count("context_length"),
        n_ctx_train=count("meta", "n_ctx_train"),
        n_vocab=count("meta", "n_vocab"),
        parameters=count("meta", "n_params"),
        size_bytes=count("meta", "size"),
        template="the server's own",
    )


def _inside(value: Any, *path: str) -> Any:
    """Return what lies at the path in nested objects, None where there is no such place."""
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value
