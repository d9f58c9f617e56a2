"""The app as a whole: asking, stopping, quitting, and what survives."""

import asyncio
import os
import signal

import psutil
import pytest

from inference.errors import InputError
from tests.tiny_gguf import REPLY
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
    told,
    until,
    writing,
)
from tui.config import Config
from tui.store import Store


def is_empty(app) -> bool:
    return app.screen_of_chats.empty_state.display


# ---- with a real model


async def test_ask_read_ask_again_and_quit(models):
    app = app_with_model(models["koala"])
    async with app.run_test(size=(90, 40)) as pilot:
        await until(lambda: state(app) == "ready")
        await until(lambda: "Tiny Koala" in screen_text(app) and is_empty(app))
        await pilot.press(*"Who are you?", "enter")
        await answered(pilot)
        assert said(app) == [("user", "Who are you?"), ("assistant", REPLY)]
        shows = screen_text(app)
        assert "I am Koala, a tïny model 🐨." in shows and "print('hi')" in shows
        assert not is_empty(app) and composed(app) == ""
        await send(pilot, "And again?")
        await answered(pilot, 2)
        assert len(said(app)) == 4
        facts = app.screen_of_chats.status_line.facts
        assert facts.state == "ready" and facts.tokens_per_second > 0 and facts.quantization == "F32"
        assert 0 < facts.context_used < facts.context_size == 2048
        worker = psutil.Process(app.host.pid)
        await pilot.press("ctrl+q")
    assert not worker.is_running()


async def test_a_reply_is_kept_with_all_that_it_came_from(models):
    app = app_with_model(models["babble"], max_tokens=5, seed=7)
    async with app.run_test() as pilot:
        await send(pilot, "Talk")
        await answered(pilot)
        details = app.store.path(app.chat_id)[-1].details
        assert details["model"] == "Tiny Koala" and details["quantization"] == "F32"
        assert details["fingerprint"] == app.host.loaded.fingerprint != ""
        assert details["sampling"]["seed"] == 7 and details["sampling"]["temperature"] == 0
        assert details["load"]["n_threads"] == 1 and details["load"]["n_ctx"] == app.host.loaded.n_ctx
        assert details["completion_tokens"] == 5 and details["reason"] == "length" and details["folded"] == 0
        assert details["tokens_per_second"] > 0 and details["prompt_tokens"] > 0
        assert shown(app, "reply")[0].note.startswith("cut at max_tokens=5")


async def test_escape_stops_and_keeps_what_was_said(models):
    app = app_with_model(models["babble"], max_tokens=10**6)
    async with app.run_test() as pilot:
        await send(pilot, "Talk")
        await writing(app)
        await pilot.press("escape")
        await answered(pilot)
        message = app.store.path(app.chat_id)[-1]
        assert message.content == shown(app, "reply")[0].text != "" and message.state == "partial"
        assert shown(app, "reply")[0].note == "stopped · Ctrl+G continues it"
        assert state(app) == "ready"


async def test_a_stopped_reply_goes_on_where_it_was(models):
    app = app_with_model(models["koala"])
    whole = app_with_model(models["koala"])
    async with whole.run_test() as pilot:
        await send(pilot, "Who are you?")
        await answered(pilot)
        text = texts(whole, "reply")[0]
    app.defaults = app.defaults.__class__(app.defaults.sampling.with_settings(["max_tokens=4"]))
    async with app.run_test() as pilot:
        await send(pilot, "Who are you?")
        await answered(pilot)
        part = texts(app, "reply")[0]
        assert text.startswith(part) and part != text
        await send(pilot, "/set max_tokens=100")
        await pilot.press("ctrl+g")
        await until(lambda: len(texts(app, "reply")[0]) > len(part) and not busy(app))
        assert texts(app, "reply") == [text] and said(app)[-1] == ("assistant", text)
        message = app.store.path(app.chat_id)[-1]
        assert message.state == "complete" and message.siblings == 1
        assert message.details["earlier"][0]["reason"] == "length"


async def test_quitting_while_the_model_writes_keeps_it_and_leaves_no_process(models, tmp_path):
    store = Store.open(tmp_path / "chats.db")
    app = app_with_model(models["babble"], store=store, max_tokens=10**6)
    async with app.run_test() as pilot:
        await send(pilot, "Talk")
        await writing(app)
        worker = psutil.Process(app.host.pid)
        await pilot.press("ctrl+q")
    assert not worker.is_running()
    [question, reply] = store.path(store.chats()[0].id)
    assert question.content == "Talk" and reply.content and reply.state == "partial"
    assert reply.details["reason"] == "cancelled"


async def test_leaving_by_a_signal_keeps_everything(models, tmp_path):
    store = Store.open(tmp_path / "chats.db")
    app = app_with_model(models["babble"], store=store, max_tokens=10**6)
    async with app.run_test() as pilot:
        await until(lambda: state(app) == "ready")
        await send(pilot, "Talk")
        await writing(app)
        worker = psutil.Process(app.host.pid)
        os.kill(os.getpid(), signal.SIGTERM)
        await until(lambda: not worker.is_running())
    assert store.path(store.chats()[0].id)[-1].state == "partial"


async def test_a_real_worker_killed_while_it_writes(models):
    app = app_with_model(models["babble"], max_tokens=10**6)
    async with app.run_test() as pilot:
        await send(pilot, "Talk")
        await writing(app)
        os.kill(app.host.pid, signal.SIGKILL)
        await until(lambda: len(notices(app)) == 1 and not busy(app))
        assert app.store.path(app.chat_id)[-1].state == "partial"
        await send(pilot, "Again")
        await until(lambda: len(texts(app, "reply")) == 2 and texts(app, "reply")[-1])
        await pilot.press("escape")
        await answered(pilot, 2)


# ---- keys and states


async def test_the_first_frame_does_not_wait_for_the_model():
    app = app_with_script(load_delay=0.5, deltas=["Here I am."])
    async with app.run_test() as pilot:
        assert state(app) == "loading"
        await pilot.press(*"Hello", "enter")
        await until(lambda: texts(app, "user") == ["Hello"])
        assert shown(app, "reply")[0].note == "waiting for the model to load …"
        await answered(pilot)
        assert texts(app, "reply") == ["Here I am."]


async def test_enter_sends_and_ctrl_j_begins_a_line():
    app = app_with_script()
    async with app.run_test() as pilot:
        await pilot.press("enter", "space", "enter")
        await pilot.pause()
        assert app.chat_id is None, "there is nothing to send"
        await pilot.press("a", "ctrl+j", "b", "enter")
        await answered(pilot)
        assert texts(app) == ["a\nb", "a\nb"]


async def test_what_is_typed_while_the_model_writes_stays():
    app = app_with_script(deltas=["word "] * 2000, delay=0.02)
    async with app.run_test() as pilot:
        await send(pilot, "first")
        await writing(app)
        await send(pilot, "next")
        await pilot.pause()
        assert composed(app) == "next" and texts(app, "user") == ["first"]
        await told(app, "still being answered")
        await pilot.press("escape")
        await answered(pilot)
        await pilot.press("enter")
        await until(lambda: texts(app, "user") == ["first", "next"])


async def test_a_stop_before_the_first_word_gives_the_question_back():
    app = app_with_script(deltas=["never"], prompt_steps=200, delay=0.02)
    async with app.run_test() as pilot:
        await send(pilot, "a long question")
        await until(lambda: state(app).startswith("reading "))
        await pilot.press("escape")
        await until(lambda: not busy(app))
        assert composed(app) == "a long question"
        assert said(app) == [] and is_empty(app)


async def test_a_stop_while_the_model_loads_gives_the_question_back():
    app = app_with_script(load_delay=1, deltas=["here"])
    async with app.run_test() as pilot:
        await send(pilot, "too early")
        await until(lambda: bool(shown(app, "reply")))
        await pilot.press("escape")
        await until(lambda: not busy(app))
        assert composed(app) == "too early" and state(app) == "loading"
        await until(lambda: state(app) == "ready")
        await pilot.press("enter")
        await answered(pilot)
        assert texts(app, "reply") == ["here"]


async def test_new_chat_while_the_model_writes_and_the_reply_goes_on():
    app = app_with_script(deltas=["word "] * 60, delay=0.02)
    async with app.run_test() as pilot:
        await send(pilot, "first")
        await writing(app)
        first = app.chat_id
        await pilot.press("ctrl+n")
        await until(lambda: is_empty(app))
        assert app.chat_id is None and app.screen_of_chats.composer.has_focus
        assert state(app) == "writing in another chat"
        await until(lambda: not busy(app))
        assert app.store.path(first)[-1].content == "word " * 60
        await told(app, "the reply is there")
        app.open_chat(first)
        assert texts(app, "reply") == ["word " * 60]


async def test_returning_to_a_reply_that_is_being_written_shows_all_of_it():
    app = app_with_script(deltas=[f"w{number} " for number in range(120)], delay=0.01)
    async with app.run_test() as pilot:
        await send(pilot, "first")
        await writing(app)
        first = app.chat_id
        await pilot.press("ctrl+n")
        await until(lambda: is_empty(app))
        app.open_chat(first)
        assert busy(app) and texts(app, "reply")[0].startswith("w0 w1")
        await answered(pilot)
        assert texts(app, "reply") == ["".join(f"w{number} " for number in range(120))]


async def test_several_chats_wait_for_each_other():
    app = app_with_script(deltas=["word "] * 80, delay=0.02)
    async with app.run_test(size=(120, 30)) as pilot:
        await send(pilot, "first")
        await writing(app)
        await pilot.press("ctrl+n")
        await send(pilot, "second")
        await until(lambda: state(app) == "waiting, 1 ahead")
        assert shown(app, "reply")[0].note == "waiting, 1 ahead …"
        await until(lambda: "▸" in screen_text(app) and "◷" in screen_text(app))
        await until(lambda: not busy(app))
        assert texts(app, "reply") == ["word " * 80]


async def test_stopping_one_that_waits_leaves_the_other():
    app = app_with_script(deltas=["word "] * 60, delay=0.02)
    async with app.run_test() as pilot:
        await send(pilot, "first")
        await writing(app)
        first = app.chat_id
        await pilot.press("ctrl+n")
        await send(pilot, "second")
        await until(lambda: state(app) == "waiting, 1 ahead")
        await pilot.press("escape")
        await until(lambda: len(app.runner.active) == 1)
        assert composed(app) == "second"
        await until(lambda: not busy(app))
        assert app.store.path(first)[-1].state == "complete"


async def test_it_follows_the_end_unless_the_user_scrolled_up():
    app = app_with_script(deltas=[f"line {number}\n\n" for number in range(60)], delay=0.03)
    async with app.run_test(size=(60, 20)) as pilot:
        conversation = app.screen_of_chats.conversation
        await send(pilot, "go")
        await until(lambda: conversation.max_scroll_y > 5)
        await until(lambda: conversation.scroll_y == conversation.max_scroll_y)
        conversation.scroll_to(y=0, animate=False, immediate=True)
        height = conversation.max_scroll_y
        await until(lambda: conversation.max_scroll_y > height + 4)
        assert conversation.scroll_y == 0
        await answered(pilot)
        assert conversation.scroll_y == 0


# ---- what is shown


HOSTILE = "\x1b[31mred\x1b]0;owned\x07 [bold]tag[/bold] <b>html</b> \u202eevil [/] [@click=app.quit]x[/]"


async def test_hostile_text_is_shown_and_changes_nothing():
    app = app_with_script(loaded={"name": "Fake [b]Koala\x1b[31m"})  # it repeats what it is told
    async with app.run_test(size=(150, 30)) as pilot:
        await send(pilot, HOSTILE)
        await answered(pilot)
        shows = screen_text(app)
        assert "\x1b" not in shows and "\x07" not in shows and "\u202e" not in shows
        assert shows.count("␛[31mred␛]0;owned␇ [bold]tag[/bold] <b>html</b> ⟦RLO⟧evil") == 3, "as title, too"
        assert said(app)[-1][1] == HOSTILE, "the model gets its own words back unchanged"
        await until(lambda: "Fake [b]Koala␛[31m" in screen_text(app))
        assert any("␛[31mred" in line[:30] for line in shows.splitlines()), "in the list of chats, too"


async def test_every_size_works():
    for size in [(60, 20), (30, 10), (220, 60)]:
        app = app_with_script(deltas=["| a | b |\n|---|---|\n| 1 | 2 |\n\n- " + "long " * 100])
        async with app.run_test(size=size) as pilot:
            await send(pilot, "x" * 500)
            await answered(pilot)
            assert len(screen_text(app).splitlines()) == size[1]


async def test_a_fold_has_a_marker_and_stays_folded():
    app = app_with_script(folded=2)
    async with app.run_test() as pilot:
        await send(pilot, "one")
        await answered(pilot)
        assert not shown(app, "marker"), "there is nothing before it that could be folded"
        await send(pilot, "two")
        await answered(pilot, 2)
        assert [entry.kind for entry in shown(app)] == ["user", "reply", "marker", "user", "reply"]
        assert "2 earlier messages are folded away" in texts(app, "marker")[0]
        chat_id = app.chat_id
        await pilot.press("ctrl+n")
        app.open_chat(chat_id)
        assert [entry.kind for entry in shown(app)] == ["user", "reply", "marker", "user", "reply"]


# ---- trouble


async def test_a_model_that_cannot_be_loaded_is_a_message_and_the_app_goes_on():
    app = app_with_script(load_error="the file [is] odd; choose another")
    async with app.run_test(size=(80, 30)) as pilot:
        await until(lambda: len(notices(app)) == 1)
        await until(lambda: "the file [is] odd; choose another" in screen_text(app))
        assert state(app) == "failed"
        await send(pilot, "are you there?")
        await until(lambda: len(notices(app)) == 2 and not busy(app))
        assert composed(app) == "are you there?", "the question is not lost"
        assert app.store.history() == [], "and it is not there twice"


async def test_a_worker_that_dies_keeps_what_was_said_and_comes_back(tmp_path):
    script = {"deltas": ["one ", "two ", "three "], "die_after": 2, "delay": 0.05, "marker": str(tmp_path / "died")}
    app = app_with_script(**script)
    async with app.run_test(size=(80, 30)) as pilot:
        await send(pilot, "count")
        await until(lambda: len(notices(app)) == 1 and not busy(app))
        assert "was killed" in notices(app)[0]
        assert said(app)[-1] == ("assistant", "one two ")
        assert shown(app, "reply")[0].note == "interrupted · Ctrl+G continues it"
        await send(pilot, "once more")
        await answered(pilot, 2)
        assert texts(app, "reply")[-1] == "one two three " and state(app) == "ready"


async def test_a_worker_that_dies_before_the_first_word_gives_the_question_back(tmp_path):
    app = app_with_script(deltas=["x"], die_after=0, marker=str(tmp_path / "died"))
    async with app.run_test() as pilot:
        await send(pilot, "count")
        await until(lambda: notices(app) and not busy(app))
        assert composed(app) == "count" and said(app) == []
        await pilot.press("enter")
        await answered(pilot)
        assert texts(app, "reply") == ["x"]


async def test_quitting_while_the_model_loads_leaves_no_process():
    others = set(psutil.Process().children())
    app = app_with_script(load_delay=30)
    async with app.run_test():
        await until(lambda: set(psutil.Process().children()) - others)
        children = set(psutil.Process().children()) - others
    await until(lambda: not any(child.is_running() for child in children))


async def test_no_model_opens_the_screen_to_choose_one_and_says_so_when_asked():
    app = app_with_script(options={"target": None})
    async with app.run_test() as pilot:
        await until(lambda: type(app.screen).__name__ == "ModelsScreen")
        await pilot.press("escape")
        await until(lambda: app.screen is app.screen_of_chats)
        assert state(app) == "no model" and "No model yet" in screen_text(app)
        await send(pilot, "hello")
        await until(lambda: notices(app) and not busy(app))
        assert "there is no model yet" in notices(app)[0] and composed(app) == "hello"


def test_keys_that_cannot_be_used_are_a_sentence_before_the_screen_changes():
    with pytest.raises(InputError, match="no command 'fly'"):
        app_with_script(options={"config": Config(keys={"fly": "f5"})})


async def test_keys_can_be_changed():
    app = app_with_script(options={"config": Config(keys={"send": "ctrl+enter,f9", "new-line": "enter"})})
    async with app.run_test() as pilot:
        await pilot.press("a", "enter", "b", "f9")
        await answered(pilot)
        assert texts(app, "user") == ["a\nb"]


async def test_two_windows_on_one_store(tmp_path):
    file = tmp_path / "chats.db"
    one, two = (app_with_script(store=Store.open(file), deltas=["re", "ply"]) for _ in range(2))
    async with one.run_test(size=(120, 30)) as first, two.run_test(size=(120, 30)):
        await send(first, "from the first")
        await answered(first)
        await until(lambda: "from the first" in screen_text(two))
        two.open_chat(one.chat_id)
        assert texts(two) == ["from the first", "reply"]
        await send(first, "and more")
        await answered(first, 2)
        await until(lambda: texts(two)[-2:] == ["and more", "reply"])


async def test_a_reply_of_a_window_that_was_killed_becomes_partial(tmp_path):
    store = Store.open(tmp_path / "chats.db")
    chat = store.create_chat("old")
    question = store.add_message(chat, None, "user", "why?")
    store.add_message(chat, question, "assistant", "becau", state="streaming")
    app = app_with_script(store=store, options={"chat_id": chat})
    async with app.run_test() as pilot:
        assert shown(app, "reply")[0].note == "being written in another window"
        await send(pilot, "and?")
        await pilot.pause()
        await told(app, "another window is writing")
        store.interrupted(silence=0)
        await until(lambda: shown(app, "reply")[0].note == "interrupted · Ctrl+G continues it")


@pytest.mark.slow
async def test_idle_costs_nothing():
    app = app_with_script()
    async with app.run_test(size=(120, 36)):
        await until(lambda: state(app) == "ready")
        await asyncio.sleep(1)
        before = psutil.Process().cpu_times()
        await asyncio.sleep(5)
        after = psutil.Process().cpu_times()
    assert (after.user + after.system) - (before.user + before.system) < 0.05 * 5
