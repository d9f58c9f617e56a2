"""Whatever befalls the store or the app, what was typed and said stays."""

import asyncio
import sqlite3
import threading
import time
from contextlib import closing

import pytest

from inference.errors import EngineError
from tests.tui.conftest import (
    answered,
    app_with_script,
    busy,
    composed,
    said,
    send,
    shown,
    texts,
    toasts,
    told,
    until,
    writing,
)
from tui import app as app_module
from tui.app import KoalaApp
from tui.store import Store, StoreError

SLOWLY = {"deltas": [f"word{number} " for number in range(200)], "delay": 0.05}


class Outage:
    """Keeps the store of an app from being written or read."""

    def __init__(self, app: KoalaApp, *what: str) -> None:
        self._database, self._what = app.store._database, what

    def __enter__(self):
        def fails(*arguments, **options):
            raise StoreError("the disk is full")

        for name in self._what:
            setattr(self._database, name, fails)

    def __exit__(self, *error):
        for name in self._what:
            delattr(self._database, name)


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(app_module, "WATCH_SECONDS", 0.3)


# ---- the store fails for a while


async def test_a_short_outage_is_noticed_to_be_over_and_the_next_one_is_told_again():
    app = app_with_script(**SLOWLY)
    async with app.run_test(size=(100, 30)) as pilot:
        with Outage(app, "write"):
            await send(pilot, "hi")
            await writing(app)
            assert app.chat_id < 0
        await told(app, "everything is written now")
        await until(lambda: app.chat_id > 0 and app.runner.active[0].chat_id == app.chat_id)
        before = texts(app, "reply")[0]
        await until(lambda: len(texts(app, "reply")[0]) > len(before))
        with Outage(app, "write"):
            app.screen_of_chats.composer.insert("more")
            await until(lambda: sum("the disk is full" in toast for toast in toasts(app)) == 2)
        await until(lambda: app.store.chat(app.chat_id).draft == "more")
        await pilot.press("escape")
        await answered(pilot)
        assert said(app) == [("user", "hi"), ("assistant", texts(app, "reply")[0])]
        assert shown(app, "reply")[0].key == app.store.path(app.chat_id)[-1].id


async def test_a_change_of_a_message_that_was_stored_meanwhile():
    app = app_with_script()
    async with app.run_test() as pilot:
        with Outage(app, "write"):
            await send(pilot, "hi")
            await answered(pilot)
            app.screen_of_chats.action_edit()
        await until(lambda: app.chat_id > 0)
        app.screen_of_chats.composer.fill("hello")
        await pilot.press("enter")
        await until(lambda: not busy(app) and said(app) == [("user", "hello"), ("assistant", "hello")])


async def test_a_draft_goes_with_its_chat_though_it_cannot_be_written_at_once():
    app = app_with_script()
    async with app.run_test() as pilot:
        await send(pilot, "hi")
        await answered(pilot)
        chat = app.chat_id
        with Outage(app, "write"):
            app.screen_of_chats.composer.insert("precious")
            app.open_chat(None)
            assert composed(app) == ""
            app.open_chat(chat)
            assert composed(app) == "precious"
            app.open_chat(None)
        await until(lambda: app.store.chat(chat).draft == "precious")


async def test_a_store_that_cannot_be_read_ends_nothing():
    app = app_with_script(**SLOWLY)
    async with app.run_test(size=(100, 30)) as pilot:
        await send(pilot, "first")
        await writing(app)
        app.screen_of_chats.composer.insert("typed meanwhile")
        await until(lambda: app.chat.draft == "typed meanwhile")
        with Outage(app, "read", "write"):
            await pilot.press("escape")
            await until(lambda: not busy(app))
            app.screen_of_chats.action_pin()
            app.screen_of_chats.action_rename()
            app.screen_of_chats.composer.action_cursor_up()
            await told(app, "the disk is full")
            await asyncio.sleep(0.7)  # it looks again, twice
            assert composed(app) == "typed meanwhile"
        await told(app, "everything is written now")
        assert app.store.path(app.chat_id)[-1].state == "partial"
        await pilot.press("enter")
        await until(lambda: texts(app, "user") == ["first", "typed meanwhile"])
        await writing(app)


async def test_another_program_that_keeps_the_store_to_itself_does_not_hold_up_the_screen(tmp_path):
    app = app_with_script(store=Store.open(tmp_path / "chats.db"), options={"chat_id": 1})
    app.store.create_chat()
    async with app.run_test():
        await until(lambda: app.chat_id == 1)
        held, seen = threading.Event(), []

        def hold():
            with closing(sqlite3.connect(tmp_path / "chats.db", isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")
                held.set()
                time.sleep(2.5)
                other.execute("ROLLBACK")

        holder = threading.Thread(target=hold)
        holder.start()
        held.wait()
        app.screen_of_chats.composer.insert("precious")
        while holder.is_alive():
            before = time.monotonic()
            await asyncio.sleep(0.01)
            seen.append(time.monotonic() - before)
        assert max(seen) < 1.5
        await told(app, "keeps")
        await until(lambda: app.store.chat(1).draft == "precious")


# ---- another window deletes the chat


async def test_a_chat_that_another_window_deleted_comes_back_with_the_next_word(tmp_path):
    app, other = app_with_script(store=Store.open(tmp_path / "chats.db")), Store.open(tmp_path / "chats.db")
    async with app.run_test() as pilot:
        await send(pilot, "hi")
        await answered(pilot)
        other.delete(app.chat_id)
        await send(pilot, "still there?")
        await answered(pilot, 2)
        assert [chat.id for chat in other.chats()] == [app.chat_id]
        other.delete(app.chat_id)
        app.screen_of_chats.composer.insert("and now?")
        await until(lambda: [chat.draft for chat in other.chats()] == ["and now?"])


async def test_what_was_typed_into_a_chat_that_is_gone_is_in_a_new_one(tmp_path):
    app, other = app_with_script(store=Store.open(tmp_path / "chats.db")), Store.open(tmp_path / "chats.db")
    async with app.run_test() as pilot:
        await send(pilot, "hi")
        await answered(pilot)
        other.delete(app.chat_id)
        other.purge_deleted(before=float("inf"))
        app.screen_of_chats.composer.insert("precious")
        await told(app, "there is no chat")
        await until(lambda: app.chat.is_empty)
        assert composed(app) == "precious"
        await until(lambda: [chat.draft for chat in other.chats()] == ["precious"])


async def test_deleting_a_new_chat_with_nothing_but_a_draft_leaves_it():
    app = app_with_script()
    async with app.run_test() as pilot:
        app.screen_of_chats.composer.insert("draft")
        await until(lambda: app.chat_id is not None)
        deleted = app.chat_id
        app.screen_of_chats.composer.fill("")
        await until(lambda: app.chat.draft == "")
        app.screen_of_chats.action_delete()
        await until(lambda: app.chat_id is None)
        await send(pilot, "words")
        await answered(pilot)
        assert app.chat_id != deleted and [chat.id for chat in app.store.chats()] == [app.chat_id]


# ---- changing what was said


async def test_a_question_that_is_given_back_during_a_change_survives_esc():
    gate = asyncio.Event()

    async def start(target, options):
        await gate.wait()
        raise EngineError("no luck")

    store = Store.open(None)
    chat = store.create_chat()
    store.add_message(chat, store.add_message(chat, None, "user", "old"), "assistant", "answer")
    app = app_with_script(store=store, options={"chat_id": chat})
    app.host._start = start
    async with app.run_test() as pilot:
        await send(pilot, "precious")
        await until(lambda: len(texts(app, "user")) == 2)
        app.screen_of_chats._edit(app.chat.path[0])
        gate.set()
        await until(lambda: len(texts(app, "user")) == 1 and not busy(app))
        assert composed(app) == "old"
        await pilot.press("escape")
        assert composed(app) == "precious"
        await until(lambda: store.chat(chat).draft == "precious")


# ---- leaving


async def test_whoever_asks_to_leave_waits_until_all_is_stored(tmp_path):
    app = app_with_script(store=Store.open(tmp_path / "chats.db"))
    gate = asyncio.Event()
    async with app.run_test() as pilot:
        await send(pilot, "hi")
        await answered(pilot)
        close = app.host.close

        async def slowly():
            await gate.wait()
            await close()

        app.host.close = slowly
        leaving = [asyncio.create_task(app.shut_down()) for _ in range(2)]
        app.screen_of_chats.composer.insert("typed ")
        await pilot.press(*"late", "enter")
        await told(app, "the app is closing")
        assert not any(task.done() for task in leaving)
        gate.set()
        await asyncio.gather(*leaving)
        assert app.store.chat(app.chat_id).draft == composed(app) == "typed late"
