"""The screen on which one chats: drafts, branches, the list of chats, commands, files."""

import pytest
from textual.events import Paste

from tests.tui.conftest import (
    answered,
    app_with_script,
    busy,
    composed,
    notices,
    said,
    screen_text,
    send,
    shown,
    state,
    texts,
    toasts,
    told,
    until,
    writing,
)
from tui.config import Config, Preset
from tui.store import Store, StoreError


def versions(app) -> list[tuple[str, int, int]]:
    return [(entry.text, entry.position, entry.siblings) for entry in shown(app)]


async def chats(pilot, *questions: str) -> list[int]:
    """Make a chat for each question and return their ids."""
    ids = []
    for question in questions:
        await pilot.press("ctrl+n")
        await send(pilot, question)
        await until(lambda: not busy(pilot.app) and pilot.app.chat.path)
        ids.append(pilot.app.chat_id)
    return ids


def echo(**options):
    """The app on a model that repeats what it is told."""
    return app_with_script(**options)


def numbered():
    """The app on a model that says "answer"."""
    return app_with_script(deltas=["ans", "wer"])


# ---- drafts


async def test_drafts_belong_to_chats_and_survive():
    store = Store.open(None)
    app = echo(store=store)
    async with app.run_test() as pilot:
        first, second = await chats(pilot, "first", "second")
        await pilot.press(*"draft two")
        app.open_chat(first)
        assert composed(app) == ""
        await pilot.press(*"draft one")
        app.open_chat(second)
        assert composed(app) == "draft two"
        app.open_chat(first)
        assert composed(app) == "draft one"
        await until(lambda: store.chat(first).draft == "draft one")
    again = echo(store=store, options={"chat_id": second})
    async with again.run_test():
        assert composed(again) == "draft two"


async def test_the_draft_of_a_new_chat_is_there_after_a_crash():
    store = Store.open(None)
    app = echo(store=store)
    async with app.run_test() as pilot:
        await pilot.press(*"half a thou")
        await until(lambda: store.chats() and store.chats()[0].draft == "half a thou")
    again = echo(store=store)  # with no chat named, the draft that waits is opened
    async with again.run_test() as pilot:
        assert composed(again) == "half a thou"
        await pilot.press(*"ght", "enter")
        await answered(pilot)
        assert texts(again, "user") == ["half a thought"]
        assert [chat.draft for chat in store.chats()] == [""]


async def test_quitting_keeps_what_was_typed_a_moment_ago():
    store = Store.open(None)
    app = echo(store=store)
    async with app.run_test() as pilot:
        await pilot.press(*"abc", "ctrl+q")
    assert store.chats()[0].draft == "abc"


async def test_up_and_down_go_through_what_was_said():
    app = echo()
    async with app.run_test() as pilot:
        await chats(pilot, "one", "two\nlines")
        await pilot.press(*"new", "up")
        assert composed(app) == "two\nlines"
        await pilot.press("up")
        assert composed(app) == "one"
        await pilot.press("up")
        assert composed(app) == "one", "there is nothing before it"
        await pilot.press("down", "down", "down")
        assert composed(app) == "new"


# ---- versions


async def test_another_reply_is_a_sibling_and_one_can_switch():
    app = numbered()
    async with app.run_test() as pilot:
        await pilot.press("ctrl+r")
        await pilot.pause()
        await told(app, "nothing to answer")
        assert not shown(app)
        await send(pilot, "question")
        await answered(pilot)
        await pilot.press("ctrl+r")
        await until(lambda: versions(app)[-1] == ("answer", 2, 2) and not busy(app))
        assert [role for role, _ in said(app)] == ["user", "assistant"]
        await send(pilot, "more")
        await answered(pilot, 2)
        await send(pilot, "/prev")
        await until(lambda: versions(app) == [("question", 1, 1), ("answer", 1, 2)])
        await send(pilot, "/next")
        await until(lambda: [entry.text for entry in shown(app)] == ["question", "answer", "more", "answer"])
        await send(pilot, "/next")
        await pilot.pause()
        assert len(shown(app)) == 4, "there is no version after the last"


async def test_a_stopped_second_try_leaves_the_first_reply():
    app = app_with_script(deltas=["ok"], prompt_steps=300, delay=0.01)
    async with app.run_test() as pilot:
        await send(pilot, "question")
        await answered(pilot)
        await pilot.press("ctrl+r")
        await until(lambda: state(app).startswith("reading"))
        await pilot.press("escape")
        await until(lambda: not busy(app))
        assert versions(app) == [("question", 1, 1), ("ok", 1, 1)]
        assert composed(app) == "", "no question was asked with it"


async def test_editing_makes_a_branch_and_keeps_what_was_being_written():
    app = echo()
    async with app.run_test() as pilot:
        await send(pilot, "first")
        await answered(pilot)
        await send(pilot, "second")
        await answered(pilot, 2)
        await pilot.press(*"unsent", "tab", "home", "e")
        assert composed(app) == "first" and app.screen_of_chats.composer.has_focus
        await pilot.press("escape")
        assert composed(app) == "unsent", "left without a change"
        await pilot.press("tab", "home", "e", *"!", "enter")
        await until(lambda: texts(app) == ["first!", "first!"] and not busy(app))
        assert composed(app) == "unsent"
        assert versions(app)[0] == ("first!", 2, 2)
        await pilot.press("tab", "home", "left")
        await until(lambda: texts(app) == ["first", "first", "second", "second"])
        assert app.screen_of_chats.conversation.selected == shown(app)[0].key


async def test_a_stopped_edit_leaves_the_old_branch():
    app = app_with_script(deltas=["ok"], prompt_steps=300, delay=0.01)
    async with app.run_test() as pilot:
        await send(pilot, "first")
        await answered(pilot)
        await send(pilot, "/edit")
        await pilot.press(*" changed", "enter")
        await until(lambda: state(app).startswith("reading"))
        await pilot.press("escape")
        await until(lambda: not busy(app))
        assert texts(app) == ["first", "ok"] and composed(app) == "first changed"


async def test_a_question_without_an_answer_is_answered_by_continue():
    store = Store.open(None)
    chat = store.create_chat()
    store.add_message(chat, None, "user", "are you there?")
    app = numbered()
    app = app_with_script(store=store, deltas=["yes"], options={"chat_id": chat})
    async with app.run_test() as pilot:
        await pilot.press("ctrl+g")
        await answered(pilot)
        assert texts(app) == ["are you there?", "yes"]


async def test_two_questions_in_a_row_reach_the_model_as_one():
    store = Store.open(None)
    chat = store.create_chat()
    store.add_message(chat, None, "user", "one")
    app = echo(store=store, options={"chat_id": chat})
    async with app.run_test() as pilot:
        await send(pilot, "two")
        await answered(pilot)
        assert texts(app) == ["one", "two", "one\n\ntwo"]


# ---- the list of chats


async def test_open_pin_rename_delete_and_undo_with_keys():
    app = echo()
    async with app.run_test(size=(120, 30)) as pilot:
        one, two = await chats(pilot, "one", "two")
        chat_list = app.screen_of_chats.chat_list
        assert chat_list.titles == ["Today", "two", "one"]
        await pilot.press("ctrl+b", "ctrl+b")  # hidden, and shown again with the focus
        await pilot.press("down", "enter")
        await until(lambda: app.chat_id == one)
        assert app.screen_of_chats.composer.has_focus
        await pilot.press("ctrl+b", "ctrl+b", "p")
        await until(lambda: chat_list.titles == ["Pinned", "one", "", "Today", "two"])
        await pilot.press("down", "r", *"x", "enter")
        await until(lambda: "Renam" in screen_text(app) or app.store.chat(two).title != "two")
        await pilot.press("ctrl+b", "ctrl+b", "d")
        await until(lambda: app.deleted)
        await told(app, "Ctrl+Z brings it back")


async def test_rename_with_f2_and_with_a_command():
    app = echo()
    async with app.run_test(size=(120, 30)) as pilot:
        await chats(pilot, "some words")
        await pilot.press("f2")
        await until(lambda: type(app.screen).__name__ == "PromptScreen")
        await pilot.press(*"Better", "enter")
        await until(lambda: app.store.chat(app.chat_id).title == "Better")
        await until(lambda: "Better" in app.screen_of_chats.chat_list.titles)
        await send(pilot, "/rename [b]Best[/b]")
        await until(lambda: "[b]Best[/b]" in screen_text(app))
        await pilot.press("f2")
        await until(lambda: type(app.screen).__name__ == "PromptScreen")
        await pilot.press("escape")
        assert app.store.chat(app.chat_id).title == "[b]Best[/b]"


async def test_deleting_the_open_chat_while_it_is_answered_and_undoing_it():
    app = app_with_script(deltas=["word "] * 2000, delay=0.02)
    async with app.run_test() as pilot:
        await send(pilot, "go")
        await writing(app)
        chat = app.chat_id
        app.screen_of_chats.composer.insert("/delete")
        await pilot.press("enter")
        await until(lambda: app.chat_id is None and not busy(app))
        assert app.store.chats() == []
        await pilot.press("ctrl+z")
        await until(lambda: app.chat_id == chat)
        assert texts(app, "reply")[0].startswith("word ")


async def test_it_is_hidden_where_it_is_narrow_and_comes_over_the_chat_when_asked():
    app = echo()
    async with app.run_test(size=(70, 20)) as pilot:
        one, _ = await chats(pilot, "one", "two")
        chat_list = app.screen_of_chats.chat_list
        assert not chat_list.display
        await pilot.press("ctrl+b")
        assert chat_list.display and chat_list.has_focus
        await pilot.press("down", "enter")
        await until(lambda: app.chat_id == one)
        assert not chat_list.display
        await pilot.press("ctrl+b", "escape")
        assert not chat_list.display and app.screen_of_chats.composer.has_focus
        await pilot.resize_terminal(120, 30)
        await until(lambda: chat_list.display)


async def test_a_chat_is_opened_with_the_mouse():
    app = echo()
    async with app.run_test(size=(120, 30)) as pilot:
        one, _ = await chats(pilot, "one", "two")
        await pilot.click(app.screen_of_chats.chat_list, offset=(5, 3))
        await until(lambda: app.chat_id == one)


# ---- commands


async def test_what_is_typed_after_a_slash_is_offered_and_completed():
    app = echo()
    async with app.run_test(size=(100, 30)) as pilot:
        await pilot.press(*"/se")
        await until(lambda: "/search [TEXT]" in screen_text(app) and "/settings" in screen_text(app))
        await pilot.press("a", "tab")
        assert composed(app) == "/search "
        await pilot.press("escape", *"xyz")
        app.screen_of_chats.composer.fill("/unk")
        await pilot.press("enter")
        await pilot.pause()
        await told(app, "no command /unk") and composed(app) == "/unk"
        app.screen_of_chats.composer.fill("//unk")
        await pilot.press("enter")
        await answered(pilot)
        assert texts(app) == ["/unk", "/unk"]


async def test_a_path_at_the_start_is_a_message():
    app = echo()
    async with app.run_test() as pilot:
        await send(pilot, "/usr/bin is what?")
        await answered(pilot)
        assert texts(app, "user") == ["/usr/bin is what?"]


async def test_settings_of_a_chat_by_command():
    presets = {"short": Preset({"max_tokens": 7}, "Be brief.")}
    store = Store.open(None)
    app = echo(store=store, options={"config": Config(presets=presets)})
    async with app.run_test() as pilot:
        await send(pilot, "/set temperature=0.2 top_k=3")
        await send(pilot, "/system You are a koala.")
        settings = app.chat_settings()
        assert (settings.sampling.temperature, settings.sampling.top_k) == (0.2, 3)
        assert settings.system == "You are a koala." and settings.sampling.max_tokens != 7
        await send(pilot, "hi")
        await answered(pilot)
        details = store.path(app.chat_id)[-1].details
        assert details["sampling"]["temperature"] == 0.2 and details["system"] == "You are a koala."
        await send(pilot, "/preset short")
        assert app.chat_settings().system == "Be brief." and "short" in screen_text(app)
        await send(pilot, "/preset long")
        await told(app, "there are short")
        await send(pilot, "/set warmth=1")
        await told(app, "there is no setting 'warmth=1'")
        chat = app.chat_id
        await pilot.press("ctrl+n")
        assert app.chat_settings() == app.defaults
        app.open_chat(chat)
        assert app.chat_settings().sampling.max_tokens == 7


async def test_the_palette_knows_the_commands():
    app = echo()
    async with app.run_test(size=(100, 30)) as pilot:
        await pilot.press("ctrl+p")
        await until(lambda: "CommandPalette" in type(app.screen).__name__)
        await pilot.press(*"export")
        await until(lambda: "write chats to Markdown" in screen_text(app))
        await pilot.press("escape")


async def test_themes_are_changed_and_remembered():
    app = echo()
    async with app.run_test() as pilot:
        await send(pilot, "/theme koala-light")
        assert app.theme == "koala-light"
        await send(pilot, "/theme plaid")
        await told(app, "no theme 'plaid'")
    assert echo().theme == "koala-light"
    assert echo(options={"config": Config(theme="nord")}).theme == "nord"


async def test_help_opens_on_a_question_mark_only_where_nothing_is_typed():
    app = echo()
    async with app.run_test() as pilot:
        await pilot.press("a", "?")
        assert composed(app) == "a?"
        await pilot.press("backspace", "backspace", "?")
        await until(lambda: type(app.screen).__name__ == "HelpScreen")
        await pilot.press("escape")
        assert app.screen is app.screen_of_chats and composed(app) == ""


# ---- files


async def test_a_file_is_inserted_as_a_block(tmp_path):
    (tmp_path / "code.py").write_text("print('```')\n\x1b[31m")
    app = echo()
    async with app.run_test() as pilot:
        await send(pilot, f"/file {tmp_path / 'code.py'}")
        await until(lambda: composed(app) == "code.py:\n````py\nprint('```')\n␛[31m\n````\n")
        await send(pilot, f"/file {tmp_path / 'none.txt'}")


@pytest.mark.parametrize("written", ["{path}", "'{path}'", "file://{path}", "{path} "])
async def test_a_dropped_file_becomes_its_text_and_undo_its_path(tmp_path, written):
    path = tmp_path / "notes.txt"
    path.write_text("remember the milk")
    app = echo()
    pasted = written.format(path=path)
    async with app.run_test() as pilot:
        await pilot.press(*"see ")
        app.screen_of_chats.composer.post_message(Paste(pasted))
        await until(lambda: composed(app) == "see \nnotes.txt:\n```txt\nremember the milk\n```\n")
        await pilot.press("ctrl+z")
        assert composed(app) == f"see {pasted}"


async def test_files_that_are_no_text_are_refused_with_a_sentence(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"\0\1\2")
    (tmp_path / "big.txt").write_bytes(b"x" * 10**6)
    app = echo()
    async with app.run_test() as pilot:
        for name, said_ in (("a.bin", "is no text file"), ("big.txt", "takes files of up to"), ("gone", "no file")):
            app.screen_of_chats.composer.fill(f"/file {tmp_path / name}")
            await pilot.press("enter")
            await told(app, said_)
        assert composed(app) == ""


# ---- the context


async def test_the_context_of_an_old_chat_is_counted():
    store = Store.open(None)
    chat = store.create_chat()
    question = store.add_message(chat, None, "user", "one two three")
    store.add_message(chat, question, "assistant", "four five")
    app = echo(store=store, options={"chat_id": chat})
    async with app.run_test():
        await until(lambda: app.screen_of_chats.status_line.facts.context_used == 5)


# ---- a store that cannot be written


class FullDisk:
    """Lets every change of a store fail, until there is room."""

    def __init__(self, store: Store, monkeypatch) -> None:
        self.is_full = True
        for name in ("create_chat", "add_message", "update_message", "set_draft", "heartbeat", "set_head", "select"):
            monkeypatch.setattr(store, name, self._failing(getattr(store, name)))

    def _failing(self, original):
        def call(*arguments, **options):
            if self.is_full:
                raise StoreError("the disk is full: the chats cannot be written; make room")
            return original(*arguments, **options)

        return call


async def test_a_store_that_fails_is_said_once_and_stops_nothing(monkeypatch):
    store = Store.open(None)
    app = echo(store=store)
    disk = FullDisk(store, monkeypatch)
    async with app.run_test() as pilot:
        await send(pilot, "one")
        await answered(pilot)
        await send(pilot, "two")
        await answered(pilot, 2)
        await pilot.press("ctrl+r")
        await until(lambda: versions(app)[-1] == ("two", 2, 2) and not busy(app))
        await send(pilot, "/prev")
        await until(lambda: versions(app)[-1] == ("two", 1, 2))
        assert texts(app) == ["one", "one", "two", "two"] and not notices(app)
        assert sum("disk is full" in toast for toast in toasts(app)) == 1
        assert store.chats() == []
        disk.is_full = False
        await until(lambda: store.chats() and not app.keeper.pending)
        [chat] = store.chats()
        assert [(m.role, m.content, m.state, m.siblings) for m in store.path(chat.id)] == [
            ("user", "one", "complete", 1), ("assistant", "one", "complete", 1),
            ("user", "two", "complete", 1), ("assistant", "two", "complete", 2),
        ]  # fmt: skip
        await until(lambda: app.chat_id == chat.id)
        await send(pilot, "three")
        await answered(pilot, 3)
        assert len(store.path(chat.id)) == 6


async def test_what_could_not_be_written_is_written_before_the_app_ends(monkeypatch):
    store = Store.open(None)
    app = echo(store=store)
    disk = FullDisk(store, monkeypatch)
    async with app.run_test() as pilot:
        await send(pilot, "one")
        await answered(pilot)
        disk.is_full = False
    [chat] = store.chats()
    assert [message.content for message in store.path(chat.id)] == ["one", "one"]


async def test_nobody_leaves_unwarned_with_words_that_are_not_on_disk(monkeypatch):
    store = Store.open(None)
    app = echo(store=store)
    FullDisk(store, monkeypatch)
    async with app.run_test() as pilot:
        await send(pilot, "one")
        await answered(pilot)
        await pilot.press("ctrl+q")
        await told(app, "quit once more")
        assert app.is_running and state(app) == "ready"
        await pilot.press("ctrl+q")
        await until(lambda: app.return_code == 0)


async def test_the_commands_are_told_in_full_from_the_first_slash_on():
    app = echo()
    async with app.run_test(size=(100, 24)) as pilot:
        await pilot.press("/")
        await until(lambda: "/help           keys, commands, facts about the model; als…" in screen_text(app))
    narrow = echo()
    async with narrow.run_test(size=(60, 20)) as pilot:
        await pilot.press("/")
        await until(lambda: "/help           keys, commands, facts about the mo…" in screen_text(narrow))


async def test_what_is_said_for_a_moment_does_not_lie_on_what_is_being_typed():
    app = echo()
    async with app.run_test(size=(60, 20), notifications=True) as pilot:
        app.say("a sentence")
        await until(lambda: "a sentence" in screen_text(app))
        await pilot.press(*"words")
        await until(lambda: "│ words" in screen_text(app))
        (line,) = (number for number, line in enumerate(screen_text(app).splitlines()) if "a sentence" in line)
        assert line < 10
