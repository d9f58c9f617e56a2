import asyncio
from pathlib import Path

import pytest

from inference.errors import InputError
from inference.load_options import LoadOptions
from inference.local import LocalEngine
from inference.sampling import Sampling
from tests.inference.conftest import fake_worker
from tests.tui.conftest import until
from tui.comparison import Comparison, Side
from tui.keeper import Keeper
from tui.model_host import ModelHost
from tui.store import Store


class Watch:
    def __init__(self):
        self.events, self.crashes = [], []

    def reply_began(self, reply):
        self.events.append("began")

    def reply_changed(self, reply):
        pass

    def reply_wrote(self, reply, text):
        self.events.append(text)

    def reply_folded(self, reply):
        pass

    def reply_ended(self, reply):
        self.events.append("ended")

    def reply_crashed(self, error):
        self.crashes.append(error)

    def side_waits(self):
        self.events.append("waits")


def host_that_follows(**script) -> ModelHost:
    async def start(target, options):
        return await LocalEngine.start(target, options, command=fake_worker(**script))

    return ModelHost(start, Path("fake.gguf"), LoadOptions())


class Table:
    """A store, two scripted models, and what they are asked."""

    def __init__(self, left=None, right=None, path=()):
        self.store = Store.open(None)
        self.keeper = Keeper(self.store)
        self.chat_id, parent = self.store.create_chat(), None
        for role, text in path:
            parent = self.store.add_message(self.chat_id, parent, role, text)
        stored = self.store.path(self.chat_id)
        hosts = [host_that_follows(**{"deltas": ["left "]} | (left or {}))]
        hosts += [host_that_follows(**{"deltas": ["right "]} | (right or {}))]
        self.left, self.right = (
            Side(self.keeper, host, Sampling(seed=number), stored, Watch()) for number, host in enumerate(hosts)
        )
        self.comparison = Comparison(self.keeper, self.left, self.right, "Be brief.")

    def ask(self, text):
        return self.comparison.ask(self.chat_id, text)

    def tree(self):
        return [(m.content, m.parent_id) for m in self.store.tree(self.chat_id)]

    def shown(self):
        return [m.content for m in self.store.path(self.chat_id)]


@pytest.fixture
async def table():
    tables = []

    def make(**options) -> Table:
        tables.append(Table(**options))
        return tables[-1]

    yield make
    for each in tables:
        await each.comparison.close()
        await each.left.host.close()
        assert not each.left.watcher.crashes and not each.right.watcher.crashes
        each.store.close()


async def test_both_answers_are_siblings_and_follow_ups_keep_both_conversations(table):
    t = table(path=[("user", "hello"), ("assistant", "hi")])
    assert await t.ask("first")
    assert t.tree() == [("hello", None), ("hi", 1), ("first", 2), ("left ", 3), ("right ", 3)]
    assert t.shown() == ["hello", "hi", "first", "left "]
    assert await t.ask("second")
    assert t.tree()[5:] == [("second", 4), ("second", 5), ("left ", 6), ("right ", 7)]
    assert [m.content for m in t.right.path] == ["hello", "hi", "first", "right ", "second", "right "]
    assert t.shown()[-3:] == ["left ", "second", "left "], "the chat goes on with the left answer"
    reply = t.store.tree(t.chat_id)[-1]
    assert reply.details["model"] == "Fake" and reply.details["sampling"]["seed"] == 1
    assert reply.details["system"] == "Be brief."


async def test_the_right_answer_is_kept(table):
    t = table()
    await t.ask("first")
    await t.ask("second")
    await t.comparison.keep(t.right)
    assert t.shown() == ["first", "right ", "second", "right "]
    await t.comparison.keep(t.left)
    assert t.shown() == ["first", "left ", "second", "left "]


async def test_one_answers_after_the_other(table):
    t = table(left={"deltas": ["a", "b", "c"], "delay": 0.02}, right={"deltas": ["x"]})
    task = t.ask("go")
    await until(lambda: "a" in t.left.watcher.events)
    assert t.right.watcher.events == ["waits"]
    await task
    assert t.left.watcher.events == ["began", "a", "b", "c", "ended"]
    assert t.right.watcher.events == ["waits", "began", "x", "ended"]


async def test_both_at_once(table):
    endless = {"deltas": ["word "] * 5000, "delay": 0.01}
    t = table(left=endless, right=endless)
    t.comparison.together = True
    task = t.ask("go")
    await until(lambda: all("word " in side.watcher.events for side in t.comparison.sides))
    with pytest.raises(InputError):
        t.ask("too early")
    t.comparison.stop()
    assert await task
    assert [m.state for m in t.store.tree(t.chat_id)] == ["complete", "partial", "partial"]


async def test_a_stop_ends_both_and_keeps_what_was_said(table):
    t = table(left={"deltas": ["word "] * 5000, "delay": 0.01})
    task = t.ask("go")
    await until(lambda: "word " in t.left.watcher.events)
    t.comparison.stop()
    assert await task
    assert len(t.tree()) == 2 and t.shown()[1].startswith("word ")
    assert t.right.path == [], "the right side begins where it was"
    before = len(t.left.watcher.events)
    task = t.ask("again")
    await until(lambda: len(t.left.watcher.events) > before + 2)
    t.comparison.stop()
    assert await task and len(t.shown()) == 4


async def test_where_nobody_answers_the_question_is_taken_back(table):
    t = table(path=[("user", "hello"), ("assistant", "hi")], left={"load_error": "no"}, right={"load_error": "no"})
    assert not await t.ask("first")
    assert t.tree() == [("hello", None), ("hi", 1)] and t.shown() == ["hello", "hi"]


async def test_where_only_the_right_one_answers_the_chat_goes_on_with_that(table):
    t = table(left={"load_error": "the file is odd"})
    assert await t.ask("first")
    assert t.shown() == ["first", "right "]
    assert await t.ask("second")
    assert t.shown() == ["first", "right ", "second", "right "] and len(t.tree()) == 4


async def test_without_room_for_both_each_is_loaded_in_its_turn(table):
    t = table()
    t.comparison.in_turn = t.comparison.together = True
    loaded = []
    for side in t.comparison.sides:
        side.host.changed = lambda: loaded.append([each.host.running is not None for each in t.comparison.sides])
    await t.ask("first")
    await t.ask("second")
    assert [True, True] not in loaded and [True, False] in loaded and [False, True] in loaded
    assert t.shown() == ["first", "left ", "second", "left "]


async def test_closing_ends_the_second_process_alone(table):
    t = table(right={"deltas": ["word "] * 5000, "delay": 0.01})
    t.ask("go")
    await until(lambda: "word " in t.right.watcher.events)
    await asyncio.wait_for(t.comparison.close(), 5)
    assert t.right.host.running is None and t.left.host.running is not None
