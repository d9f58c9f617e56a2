import pytest
from textual.widgets import Input, OptionList

from tests.tui.conftest import app_with_script, screen_text, send, shown, texts, until
from tui.screens.search import SearchScreen
from tui.store import Store, StoreError


@pytest.fixture
def store() -> Store:
    store = Store.open(None)
    for number in range(3):
        chat = store.create_chat()
        question = store.add_message(chat, None, "user", f"question {number} about eucalyptus")
        store.add_message(chat, question, "assistant", f"old answer {number}: leaves")
        store.add_message(chat, question, "assistant", f"new answer {number}")
    return store


async def found(app, count: int) -> OptionList:
    hits = app.screen.query_one(OptionList)
    await until(lambda: hits.option_count == count)
    return hits


async def test_search_as_one_types_and_jump_to_the_hit(store):
    app = app_with_script(store=store)
    async with app.run_test(size=(100, 30)) as pilot:
        await pilot.press("ctrl+f", *"euca")
        await found(app, 3)
        assert "3 found" in screen_text(app) and "question 2 about eucalyptus" in screen_text(app)
        await pilot.press(*"lyptus 1")
        await found(app, 1)
        await pilot.press("enter")
        await until(lambda: app.screen is app.screen_of_chats)
        assert texts(app) == ["question 1 about eucalyptus", "new answer 1"]
        conversation = app.screen_of_chats.conversation
        assert conversation.selected == shown(app)[0].key
        assert conversation._matched == (conversation.selected, ("eucalyptus", "1")), "the words are marked"


async def test_a_hit_on_another_branch_switches_to_it(store):
    app = app_with_script(store=store)
    async with app.run_test() as pilot:
        await send(pilot, "/search leaves")
        await found(app, 3)
        await pilot.press("down", "down", "up", "enter")
        await until(lambda: app.chat_id is not None)
        assert texts(app)[1].startswith("old answer") and shown(app)[1].position == 1
        assert app.screen_of_chats.conversation.selected == shown(app)[1].key


async def test_titles_are_found_too(store):
    chat = store.chats()[0].id
    store.rename(chat, "[b]Zebra[/b] \x1b[31mcrossing")
    app = app_with_script(store=store)
    async with app.run_test() as pilot:
        await pilot.press("ctrl+f", *"zeb")
        await found(app, 1)
        await until(lambda: "[b]Zebra[/b] ␛[31mcrossing" in screen_text(app))
        await pilot.press("enter")
        await until(lambda: app.chat_id == chat)


@pytest.mark.parametrize("text", ['"', "a AND", "(", "*", "NEAR(", "-", "'; DROP TABLE chats", "nothing like it"])
async def test_nothing_that_is_typed_is_an_error(store, text):
    app = app_with_script(store=store)
    async with app.run_test() as pilot:
        await pilot.press("ctrl+f")
        app.screen.query_one(Input).value = text
        await until(lambda: "found" in screen_text(app))
        await pilot.press("up", "down", "pagedown", "enter")


async def test_leaving_changes_nothing(store):
    app = app_with_script(store=store)
    async with app.run_test() as pilot:
        await pilot.press("ctrl+f", *"euca", "escape")
        assert app.screen is app.screen_of_chats and app.chat_id is None
        await pilot.press("ctrl+f", "ctrl+f")
        assert sum(isinstance(screen, SearchScreen) for screen in app.screen_stack) == 1


async def test_a_hit_is_opened_with_the_mouse(store):
    app = app_with_script(store=store)
    async with app.run_test(size=(100, 30)) as pilot:
        await pilot.press("ctrl+f", *"euca")
        hits = await found(app, 3)
        await pilot.click(hits, offset=(3, 4))
        await until(lambda: app.chat_id is not None)


async def test_a_store_that_cannot_be_read_is_a_sentence(store, monkeypatch):
    def broken(*_):
        raise StoreError("the chats in [x] cannot be read")

    monkeypatch.setattr(store, "search", broken)
    app = app_with_script(store=store)
    async with app.run_test() as pilot:
        await pilot.press("ctrl+f", "e")
        await until(lambda: "the chats in [x] cannot be read" in screen_text(app))


async def test_a_hit_in_a_chat_that_is_gone(store):
    app = app_with_script(store=store)
    async with app.run_test() as pilot:
        await pilot.press("ctrl+f", *"question 1")
        await found(app, 1)
        chat = app.screen._hits[0].chat_id
        store.delete(chat)
        store.purge_deleted(before=float("inf"))
        await pilot.press("enter")
        await until(lambda: any("no chat" in note.message for note in app._notifications))
        assert app.chat_id is None
