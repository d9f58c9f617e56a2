import asyncio
import json
from datetime import date
from pathlib import Path

import pytest
from textual.widgets import Button, Input, Static

from tests.tui.conftest import screen_text, toasts, until
from tui.app import KoalaApp
from tui.exchange import export_chats
from tui.screens.form import Choice
from tui.screens.transfer import ExportScreen, ImportScreen, free_file
from tui.store import Store

DAY = date.today().isoformat()


def store_with_chats() -> Store:
    """Return a store with two chats, the first with two branches."""
    store = Store.open(None)
    first = store.create_chat("Koalas [b]and[/] \x1b[31meucalyptus")
    question = store.add_message(first, None, "user", "What do koalas eat?")
    store.add_message(first, question, "assistant", "Leaves.")
    store.add_message(first, question, "assistant", "Eucalyptus.")
    second = store.create_chat("Other")
    store.add_message(second, None, "user", "Hello")
    return store


def app_on(store: Store, chat_id: int | None = 1) -> KoalaApp:
    """Return the app with a model that never finishes loading."""

    async def start(target, options):
        await asyncio.Event().wait()

    return KoalaApp(store=store, chat_id=chat_id, target=Path("model.gguf"), start=start)


async def open_dialog(pilot, dialog):
    pilot.app.push_screen(dialog)
    await pilot.pause()
    return dialog


def problem(app) -> str:
    return str(app.screen.query_one("#problem", Static).content)


# ---- export


async def test_this_chat_goes_where_the_suggestion_says(home):
    app = app_on(store_with_chats())
    async with app.run_test(size=(60, 20)) as pilot:
        await pilot.press(*"/export", "enter")
        await until(lambda: isinstance(app.screen, ExportScreen))
        suggested = Path(app.screen.query_one("#path", Input).value)
        assert suggested.parent == home / "exports" and suggested.name == f"koalas-b-and-31meucalyptus-{DAY}.md"
        app.screen.query_one("#path").focus()
        await pilot.press("enter")
        await until(lambda: not isinstance(app.screen, ExportScreen))
        text = suggested.read_text()
        assert "Eucalyptus." in text and "Leaves." in text and "Hello" not in text
        assert toasts(app) == [f"1 chat written to {suggested}"]


@pytest.mark.parametrize(("steps", "suffix"), [(1, ".jsonl"), (2, ".json"), (3, ".json")])
async def test_all_chats_in_every_form(home, steps, suffix):
    app = app_on(store_with_chats())
    async with app.run_test(size=(120, 36)) as pilot:
        await open_dialog(pilot, ExportScreen())
        await pilot.press("right", "down", *["right"] * steps)
        path = Path(app.screen.query_one("#path", Input).value)
        assert path == home / "exports" / f"all-chats-{DAY}{suffix}"
        await pilot.click(Button)
        await until(lambda: not isinstance(app.screen, ExportScreen))
        text = path.read_text()
        if suffix == ".jsonl":
            assert len([json.loads(line) for line in text.splitlines()]) == 2
        else:
            assert len(json.loads(text)) == steps, "with all branches, each is a conversation"


async def test_a_path_of_the_users_own_stays_when_the_form_changes(tmp_path):
    app = app_on(store_with_chats())
    async with app.run_test(size=(120, 36)) as pilot:
        await open_dialog(pilot, ExportScreen())
        app.screen.query_one("#path", Input).value = str(tmp_path / "mine.txt")
        await pilot.press("down", "right", "right")
        assert app.screen.query_one("#path", Input).value == str(tmp_path / "mine.txt")


async def test_a_file_is_replaced_only_when_that_is_said_twice(tmp_path):
    file = tmp_path / "there.md"
    file.write_text("precious")
    app = app_on(store_with_chats())
    async with app.run_test(size=(120, 36)) as pilot:
        await open_dialog(pilot, ExportScreen())
        field = app.screen.query_one("#path", Input)
        field.value = str(file)
        field.focus()
        await pilot.press("enter")
        assert "is there already; Enter again replaces it" in problem(app) and file.read_text() == "precious"
        await pilot.press("backspace", "d")
        assert problem(app) == "", "another name is another question"
        await pilot.press("enter")
        assert file.read_text() == "precious"
        await pilot.press("enter")
        await until(lambda: file.read_text() != "precious")


async def test_what_cannot_be_written_is_a_sentence(tmp_path):
    app = app_on(store_with_chats())
    async with app.run_test(size=(120, 36)) as pilot:
        await open_dialog(pilot, ExportScreen())
        field = app.screen.query_one("#path", Input)
        field.focus()
        field.value = str(tmp_path)
        await pilot.press("enter")
        assert "is a folder; name a file in it" in problem(app)
        (tmp_path / "file").touch()
        field.value = str(tmp_path / "file" / "below.md")
        await pilot.press("enter")
        await until(lambda: "cannot be written" in problem(app))
        assert isinstance(app.screen, ExportScreen)


async def test_without_a_chat_there_are_only_all():
    app = app_on(store_with_chats(), None)
    async with app.run_test(size=(120, 36)) as pilot:
        await open_dialog(pilot, ExportScreen())
        assert app.screen.query_one("#what", Choice).words == ["all chats"]
        await pilot.press("escape")
        assert not isinstance(app.screen, ExportScreen)


def test_a_suggested_file_is_free(tmp_path):
    first = free_file(tmp_path, "../A/b: c?", ".md")
    assert first == tmp_path / f"a-b-c-{DAY}.md"
    first.touch()
    assert free_file(tmp_path, "../A/b: c?", ".md") == tmp_path / f"a-b-c-{DAY}-2.md"
    assert free_file(tmp_path, "\x1b‮", ".md").name == f"chat-{DAY}.md"


# ---- import


async def test_what_was_exported_comes_in_again(tmp_path):
    file = tmp_path / "chats with space.jsonl"
    export_chats(store_with_chats(), None, "jsonl", file)
    store = Store.open(None)
    app = app_on(store, None)
    async with app.run_test(size=(60, 20)) as pilot:
        await pilot.press(*"/import", "enter")
        await until(lambda: isinstance(app.screen, ImportScreen))
        app.screen.query_one("#path", Input).value = f"'{file}'"
        await pilot.press("enter")
        await until(lambda: "came in" in screen_text(app))
        assert "2 chats came in, with 4 messages." in " ".join(screen_text(app).split())
        assert {chat.title for chat in store.chats()} >= {"Koalas [b]and[/] \x1b[31meucalyptus", "Other"}
        await pilot.press("enter")
        await until(lambda: "Nothing new came in. 2 chats had been" in screen_text(app))
        await pilot.press("escape")
        assert not isinstance(app.screen, ImportScreen)


async def test_what_was_left_out_is_told_and_harmless(tmp_path):
    file = tmp_path / "mixed.jsonl"
    good = {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}
    file.write_text("\n".join(map(json.dumps, [good, {"\x1b[31m[bold]x": 1}, 7])))
    app = app_on(Store.open(None), None)
    async with app.run_test(size=(120, 36)) as pilot:
        await open_dialog(pilot, ImportScreen())
        app.screen.query_one("#path", Input).value = str(file)
        await pilot.click(Button)
        await until(lambda: "came in" in screen_text(app))
        text = screen_text(app)
        assert "1 chat came in, with 2 messages. 2 records could not be used." in text
        assert "line 2: it is no chat of a known form; it has" in text and "\x1b" not in text and "[bold]x" in text


@pytest.mark.parametrize("content", [None, "no json", '{"conversations": []}'])
async def test_what_is_no_chat_is_a_sentence(tmp_path, content):
    file = tmp_path / "odd.json"
    if content is not None:
        file.write_text(content)
    app = app_on(Store.open(None), None)
    async with app.run_test(size=(120, 36)) as pilot:
        await open_dialog(pilot, ImportScreen())
        app.screen.query_one("#path", Input).value = str(file)
        await pilot.press("enter")
        await until(lambda: "odd.json" in problem(app))
        assert app.store.chats() == []
