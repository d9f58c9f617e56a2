"""What the commands do in a chat, beyond what test_chat.py drives as a conversation goes on."""

from pathlib import Path

import pytest

from inference.load_options import LoadOptions
from tests.inference.fake_server import DONE, chunk, head, serve
from tests.tui.conftest import (
    answered,
    app_with_model,
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
from tui.config import Config
from tui.model_host import Endpoint, start_engine
from tui.store import Store

CODE = "Two blocks:\n\n```python\nprint(1)\n```\n\n```\nplain\n```\n"


@pytest.fixture
def copied(monkeypatch) -> list[tuple[str, str]]:
    """What was copied, and what it is called."""
    taken = []

    async def copy(app, text, what="text"):
        taken.append((text, what))
        return f"{what} is in the [b]clipboard[/b]"

    monkeypatch.setattr("tui.clipboard.copy", copy)
    return taken


async def test_copying(copied):
    app = app_with_script(deltas=[CODE])
    async with app.run_test() as pilot:
        await send(pilot, "/copy")
        await told(app, "no reply yet")
        await send(pilot, "go")
        await answered(pilot)
        await send(pilot, "/copy")
        await told(app, "reply is in the [b]clipboard[/b]")
        await send(pilot, "/copy 2")
        await told(app, "code block 2 is in")
        await send(pilot, "/copy 3")
        await told(app, "the last reply has code blocks 1 to 2")
        await pilot.press("tab", "1", "home", "c")
        await until(lambda: len(copied) == 4)
        assert copied == [
            (CODE, "reply"),
            ("plain", "code block 2"),
            ("print(1)", "code block 1"),
            ("go", "message"),
        ]


async def test_copying_what_was_selected_with_the_mouse(copied):
    app = app_with_script()
    async with app.run_test():
        app.copy_to_clipboard("some words")
        await until(lambda: copied == [("some words", "selection")])


async def test_a_click_on_the_versions_switches():
    app = app_with_script(deltas=["reply"])
    async with app.run_test(size=(80, 24)) as pilot:
        await send(pilot, "go")
        await answered(pilot)
        await pilot.press("ctrl+r")
        await until(lambda: shown(app)[-1].siblings == 2 and not busy(app))
        row, line = next((y, line) for y, line in enumerate(screen_text(app).splitlines()) if "‹2/2›" in line)
        await pilot.click(offset=(line.index("‹"), row))
        await until(lambda: shown(app)[-1].position == 1)


async def test_whether_the_list_is_shown_is_remembered():
    app = app_with_script()
    async with app.run_test(size=(120, 30)) as pilot:
        assert app.screen_of_chats.chat_list.display
        await pilot.press("ctrl+b")
        assert not app.screen_of_chats.chat_list.display and app.screen_of_chats.composer.has_focus
    again = app_with_script()
    async with again.run_test(size=(120, 30)):
        assert not again.screen_of_chats.chat_list.display
    third = app_with_script(options={"config": Config(sidebar=True)})
    async with third.run_test(size=(120, 30)):
        assert third.screen_of_chats.chat_list.display


async def test_commands_that_need_a_chat_say_so():
    app = app_with_script()
    async with app.run_test() as pilot:
        for command, sentence in {
            "/pin": "no chat yet that could be pinned",
            "/rename x": "no chat yet that could have a title",
            "/delete": "no chat yet that could be deleted",
            "/undo": "nothing was deleted",
            "/edit": "nothing yet that could be changed",
            "/continue": "nothing to continue",
            "/prev": "no message here has several versions",
        }.items():
            await send(pilot, command)
            await told(app, sentence)
        assert app.store.chats() == []


async def test_a_complete_reply_is_not_continued():
    app = app_with_script(deltas=["all of it"])
    async with app.run_test() as pilot:
        await send(pilot, "go")
        await answered(pilot)
        await pilot.press("ctrl+g")
        await told(app, "the last reply is complete")


async def test_several_deletions_are_undone_one_by_one():
    app = app_with_script()
    async with app.run_test() as pilot:
        chats = []
        for text in ("one", "two"):
            await pilot.press("ctrl+n")
            await send(pilot, text)
            await until(lambda text=text: texts(app) == [text, text] and not busy(app))
            chats.append(app.chat_id)
        for chat in reversed(chats):
            app.open_chat(chat)
            await send(pilot, "/delete")
            await until(lambda chat=chat: chat in app.deleted)
        assert app.store.chats() == []
        await send(pilot, "/undo")
        await until(lambda: app.chat_id == chats[0])
        await send(pilot, "/undo")
        await until(lambda: app.chat_id == chats[1])
        assert not app.deleted and len(app.store.chats()) == 2


async def test_what_was_begun_to_change_is_a_draft():
    store = Store.open(None)
    app = app_with_script(store=store)
    async with app.run_test() as pilot:
        await send(pilot, "first")
        await answered(pilot)
        app.screen_of_chats.composer.fill("unsent")
        app.screen_of_chats.action_edit()
        assert composed(app) == "first"
        app.screen_of_chats.save_draft()
        assert store.chat(app.chat_id).draft == "unsent", "nothing was changed yet"
        await pilot.press("!")
        app.screen_of_chats.save_draft()
        assert store.chat(app.chat_id).draft == "first!\n\nunsent"
        await pilot.press("escape")
        app.screen_of_chats.save_draft()
        assert store.chat(app.chat_id).draft == "unsent" == composed(app)


# ---- models


async def test_another_model_is_loaded_and_the_reply_that_was_being_written_is_kept(models):
    app = app_with_model(models["babble"], max_tokens=10**6)
    async with app.run_test() as pilot:
        await send(pilot, "Talk")
        await writing(app)
        app.load_model(models["koala"], LoadOptions(n_threads=1))
        await until(lambda: state(app) == "ready" and app.host.target == models["koala"])
        assert app.store.path(app.chat_id)[-1].state == "partial"
        await send(pilot, "And you?")
        await answered(pilot, 2)
        assert "Koala" in texts(app, "reply")[-1]


async def test_another_model_that_cannot_be_loaded_is_a_sentence(models):
    app = app_with_model(models["koala"])
    async with app.run_test() as pilot:
        await until(lambda: state(app) == "ready")
        app.load_model(Path("gone.gguf"))
        await until(lambda: notices(app) and state(app) == "failed")
        assert "gone.gguf" in notices(app)[0]
        app.load_model(models["koala"])
        await until(lambda: state(app) == "ready")
        await send(pilot, "Who are you?")
        await answered(pilot)


async def test_a_folded_chat_is_seen_whole_by_a_model_with_more_room():
    store = Store.open(None)
    chat, last = store.create_chat(), None
    for number in range(2):
        last = store.add_message(chat, last, "user", f"question {number}")
        details = {"folded": 2, "load": {"n_ctx": 512}} if number else {}
        last = store.add_message(chat, last, "assistant", f"answer {number}", details=details)
    app = app_with_script(store=store, options={"chat_id": chat})
    async with app.run_test():
        await until(lambda: state(app) == "ready")
        await until(lambda: not shown(app, "marker"))
        assert app.chat.folded == 0


async def test_an_endpoint():
    async def chat(question, write):
        await write(head() + chunk("Hello ") + chunk("there"))
        await write(chunk(finish="stop") + DONE)

    async with serve(chat) as server:
        app = app_with_script(options={"target": Endpoint(server.url, "tiny")})
        app.host._start = start_engine
        async with app.run_test(size=(100, 40)) as pilot:
            await until(lambda: server.url in " ".join(screen_text(app).split()))
            await until(lambda: state(app) == "ready")
            await send(pilot, "hi")
            await answered(pilot)
            assert said(app) == [("user", "hi"), ("assistant", "Hello there")]
            details = app.store.path(app.chat_id)[-1].details
            assert details["endpoint"] == server.url and details["model"] == "tiny" and "quantization" not in details
            assert server.asked[-1]["messages"] == [{"role": "user", "content": "hi"}]


async def test_an_endpoint_that_is_not_there_is_a_sentence():
    app = app_with_script(options={"target": Endpoint("http://127.0.0.1:9")})
    app.host._start = start_engine
    async with app.run_test() as pilot:
        await until(lambda: notices(app))
        assert "127.0.0.1:9" in notices(app)[0]
        await send(pilot, "hi")
        await until(lambda: composed(app) == "hi" and not busy(app))


async def test_trouble_in_a_chat_that_is_not_on_the_screen_is_told(tmp_path):
    app = app_with_script(deltas=["word "] * 30, delay=0.03, die_after=20, marker=str(tmp_path / "died"))
    async with app.run_test() as pilot:
        await send(pilot, "the first chat")
        await writing(app)
        first = app.chat_id
        await pilot.press("ctrl+n")
        await told(app, "the first chat: ")
        assert not notices(app) and any("was killed" in toast for toast in toasts(app))
        assert app.store.path(first)[-1].state == "partial"


async def test_a_question_that_comes_back_to_another_chat_is_its_draft():
    app = app_with_script(deltas=["never"], prompt_steps=400, delay=0.02)
    async with app.run_test() as pilot:
        await send(pilot, "a long question")
        await until(lambda: state(app).startswith("reading"))
        first = app.chat_id
        await pilot.press("ctrl+n", *"other words")
        app.runner.of(first).stop()
        await until(lambda: not busy(app))
        assert composed(app) == "other words"
        app.open_chat(first)
        assert composed(app) == "a long question" and not shown(app)
