"""Replies without a screen: what is stored when, and what the watcher hears."""

import asyncio
import threading
from pathlib import Path

import pytest

from inference.errors import EngineError, InputError
from inference.events import Delta, Finished, Folded, Loaded, PromptProgress, Queued
from inference.load_options import LoadOptions
from inference.sampling import Sampling
from tests.tui.conftest import until
from tui.keeper import Keeper
from tui.model_host import ModelHost
from tui.replies import ReplyRunner
from tui.store import Store

PROMPT = PromptProgress(4, 4)


def finished(reason="stop", tokens=2, **values) -> Finished:
    return Finished(reason, 5, 4, 4, 0, tokens, 0.1, 0.2, 0.1, **values)


class ScriptedStream:
    def __init__(self, engine, messages, sampling, folded) -> None:
        self.asked = (messages, sampling, folded)
        self._events = iter(engine.script)
        self._engine = engine
        self.stopped = self.closed = False

    def __aiter__(self):
        return self

    async def __anext__(self):
        await asyncio.sleep(0)
        if self.stopped:
            if self._events is None:
                raise StopAsyncIteration
            self._events = None
            return finished("cancelled")
        event = next(self._events, None)
        if event is None:
            raise StopAsyncIteration
        if isinstance(event, asyncio.Event):
            while not event.is_set() and not self.stopped:
                await asyncio.sleep(0.005)
            return await self.__anext__()
        if isinstance(event, Exception):
            raise event
        return event

    def stop(self):
        self.stopped = True

    async def aclose(self):
        self.closed = True


class ScriptedEngine:
    """An engine that sends the events of the script; an asyncio.Event in it is waited for, an error raised."""

    def __init__(self, script) -> None:
        self.script, self.streams = script, []
        self.loaded = Loaded("Scripted", "", 512, fingerprint="abc")

    def generate(self, messages, sampling, *, folded=0):
        self.streams.append(ScriptedStream(self, messages, sampling, folded))
        return self.streams[-1]

    async def close(self):
        pass


class Watcher:
    def __init__(self) -> None:
        self.heard = []
        self.crash = None

    def reply_began(self, reply):
        self.heard.append("began")

    def reply_changed(self, reply):
        if self.heard[-1:] != [reply.status]:
            self.heard.append(reply.status)

    def reply_wrote(self, reply, text):
        self.heard.append(text)

    def reply_folded(self, reply):
        self.heard.append(f"folded {reply.folded}")

    def reply_ended(self, reply):
        self.heard.append("ended")

    def reply_crashed(self, error):
        self.crash = error


class Scene:
    """A runner on a scripted engine, with a chat."""

    def __init__(self, *script, store=None) -> None:
        self.store = store or Store.open(None)
        self.keeper, self.watcher = Keeper(self.store), Watcher()
        self.engine = ScriptedEngine(script)
        self.gate = asyncio.Event()
        self.gate.set()

        async def start(target, options):
            await self.gate.wait()
            return self.engine

        self.host = ModelHost(start, Path("x.gguf"), LoadOptions())
        self.runner = ReplyRunner(self.keeper, self.host, self.watcher)
        self.chat = self.store.create_chat()

    @property
    def path(self):
        return self.store.path(self.chat)

    def ask(self, text="hi", **options):
        return self.runner.ask(self.chat, self.path, text, Sampling(seed=3), "be kind", **options)

    async def done(self):
        await until(lambda: not self.runner.active)


async def test_the_question_is_stored_before_the_engine_hears_of_it():
    scene = Scene(PROMPT, Delta("a"), finished())
    scene.gate.clear()
    scene.ask()
    await until(lambda: "began" in scene.watcher.heard)
    assert [(m.role, m.content, m.state) for m in scene.path] == [
        ("user", "hi", "complete"),
        ("assistant", "", "streaming"),
    ]
    assert scene.path[1].details["sampling"]["seed"] == 3 and not scene.engine.streams
    scene.gate.set()
    await scene.done()
    [stream] = scene.engine.streams
    assert stream.asked[0] == [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hi"}]
    assert stream.closed


async def test_what_the_watcher_hears():
    script = [Queued(2), Queued(1), PromptProgress(1, 4), PROMPT, Folded(2), Delta("one "), Delta("two", 2), finished()]
    scene = Scene(*script)
    scene.ask()
    await scene.done()
    assert scene.watcher.heard == [
        *("began", "loading", "reading", "waiting, 2 ahead", "waiting, 1 ahead", "reading 25 %", "reading 100 %"),
        *("folded 2", "writing", "one ", "two", "ended"),
    ]


async def test_a_complete_reply_with_its_details():
    scene = Scene(Delta("one "), Delta("two"), finished(folded=2))
    scene.ask()
    await scene.done()
    reply = scene.path[-1]
    assert (reply.content, reply.state) == ("one two", "complete")
    details = reply.details
    assert details["sampling"] == {**vars(Sampling(seed=5))} and details["fingerprint"] == "abc"
    assert (details["folded"], details["reason"], details["completion_tokens"]) == (2, "stop", 2)
    assert details["tokens_per_second"] == pytest.approx(10) and details["system"] == "be kind"


async def test_it_is_on_disk_within_a_second_while_it_is_written(tmp_path):
    file = tmp_path / "chats.db"
    more = asyncio.Event()
    scene = Scene(Delta("one "), more, Delta("two"), finished(), store=Store.open(file))
    other = Store.open(file)
    scene.ask()
    await until(lambda: len(scene.path) == 2 and other.path(scene.chat)[1].content == "one ", seconds=2)
    assert other.path(scene.chat)[1].state == "streaming"
    assert other.interrupted(silence=4) == [], "it gives signs of life"
    more.set()
    await scene.done()
    assert other.path(scene.chat)[1].content == "one two"


async def test_a_save_that_comes_late_does_not_undo_the_end():
    wait = asyncio.Event()
    scene = Scene(PROMPT, Delta("half"), wait, Delta(" whole"), finished())
    update, held, go = scene.keeper.update, threading.Event(), threading.Event()

    def late(*arguments, **values):
        if values.get("content") == "half":
            held.set()
            assert go.wait(10)
        update(*arguments, **values)

    scene.keeper.update = late
    scene.ask()
    await until(held.is_set)
    wait.set()
    await until(lambda: scene.runner.active[0].finished)
    await asyncio.sleep(0.05)  # the end would have been stored by now
    go.set()
    await scene.done()
    assert (scene.path[-1].content, scene.path[-1].state) == ("half whole", "complete")


async def test_the_next_turn_leaves_out_what_was_folded():
    scene = Scene(Delta("x"), finished(folded=2))
    scene.ask()
    await scene.done()
    scene.ask("more")
    await scene.done()
    assert scene.engine.streams[1].asked[2] == 2
    assert [m["content"] for m in scene.engine.streams[1].asked[0]] == ["be kind", "hi", "x", "more"]


@pytest.mark.parametrize("reason", ["length", "context"])
async def test_a_reply_that_was_cut_is_partial(reason):
    scene = Scene(Delta("x"), finished(reason))
    scene.ask()
    await scene.done()
    assert scene.path[-1].state == "partial" and scene.path[-1].details["reason"] == reason


async def test_a_broken_engine_keeps_what_was_said():
    scene = Scene(Delta("x"), EngineError("it died"))
    reply = scene.ask()
    await scene.done()
    assert scene.path[-1].content == "x" and scene.path[-1].state == "partial" and str(reply.error) == "it died"
    assert scene.path[-1].details["error"] == "it died" and scene.path[-1].details["reason"] == "error"


@pytest.mark.parametrize("event", [EngineError("it died"), InputError("too long"), finished("cancelled", 0)])
async def test_where_nothing_was_said_the_chat_is_as_before(event):
    scene = Scene(Delta("x"), finished())
    scene.ask()
    await scene.done()
    before = scene.path
    scene.engine.script = [PROMPT, event]
    reply = scene.ask("more")
    await scene.done()
    assert reply.given_back and scene.path == before
    again = scene.runner.regenerate(scene.chat, before[:1], Sampling(), None, before[-1].id)
    await scene.done()
    assert again.given_back and again.question is None and scene.path == before
    edited = scene.runner.ask(scene.chat, [], "other", Sampling(), None, before[-1].id)
    await scene.done()
    assert edited.given_back and scene.path == before


async def test_a_model_that_says_nothing_has_said_that():
    scene = Scene(PROMPT, finished("stop", 0))
    reply = scene.ask()
    await scene.done()
    assert not reply.given_back and scene.path[-1].content == "" and scene.path[-1].state == "complete"


async def test_continuing_appends():
    scene = Scene(Delta("one "), finished("length"))
    scene.ask()
    await scene.done()
    scene.engine.script = [Delta("two"), finished()]
    scene.runner.go_on(scene.chat, scene.path, Sampling(), None)
    await scene.done()
    [_, reply] = scene.path
    assert reply.content == "one two" and reply.state == "complete" and len(reply.details["earlier"]) == 1
    assert scene.engine.streams[-1].asked[0][-1] == {"role": "assistant", "content": "one "}


async def test_continuing_that_comes_to_nothing_changes_nothing():
    scene = Scene(Delta("one "), finished("length"))
    scene.ask()
    await scene.done()
    before = scene.path
    scene.engine.script = [EngineError("it died")]
    scene.runner.go_on(scene.chat, before, Sampling(), None)
    await scene.done()
    assert scene.path == before


async def test_stopping_at_every_stage():
    never = asyncio.Event()
    for script in ([never], [PROMPT, never], [PROMPT, Delta("x"), never]):
        scene = Scene(*script)
        reply = scene.ask()
        await until(lambda scene=scene, script=script: len(scene.watcher.heard) > len(script) + 1)
        reply.stop()
        await scene.done()
        assert len(scene.path) == (2 if len(script) == 3 else 0)


async def test_stopping_while_the_model_loads():
    scene = Scene(Delta("x"), finished())
    scene.gate.clear()
    reply = scene.ask()
    await until(lambda: "loading" in scene.watcher.heard)
    reply.stop()
    await scene.done()
    assert reply.given_back and scene.path == []


async def test_closing_keeps_what_was_said_even_if_the_engine_does_not_answer(monkeypatch):
    monkeypatch.setattr("tui.replies.CLOSE_SECONDS", 0.1)
    monkeypatch.setattr(ScriptedStream, "stop", lambda self: None)
    scene = Scene(Delta("some words"), asyncio.Event())
    scene.ask()
    await until(lambda: "some words" in scene.watcher.heard)
    await asyncio.wait_for(scene.runner.close(), 5)
    assert scene.path[-1].content == "some words" and scene.path[-1].state == "partial"
    with pytest.raises(EngineError):
        scene.ask()


async def test_a_mistake_of_ours_is_reported_and_loses_nothing():
    scene = Scene(Delta("some words"), ZeroDivisionError("oops"))
    scene.ask()
    await scene.done()
    await until(lambda: scene.watcher.crash is not None)
    assert isinstance(scene.watcher.crash, ZeroDivisionError) and scene.path[-1].content == "some words"


async def test_without_a_seed_one_is_drawn_and_kept():
    scene = Scene(Delta("x"), EngineError("died"))
    scene.runner.ask(scene.chat, [], "hi", Sampling(), None)
    await scene.done()
    assert isinstance(scene.path[-1].details["sampling"]["seed"], int)
