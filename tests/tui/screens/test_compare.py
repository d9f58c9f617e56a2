import asyncio
from pathlib import Path

import psutil
import pytest

from inference.load_options import LoadOptions
from inference.local import LocalEngine
from inference.sampling import Sampling
from tests.inference.conftest import fake_worker
from tests.tui.conftest import composed, screen_text, send, toasts, until
from tui import model_facts
from tui.app import KoalaApp
from tui.screens import models_files
from tui.screens.compare import CompareScreen
from tui.screens.models import ModelsScreen
from tui.screens.sampling import SamplingScreen
from tui.store import Store
from tui.widgets.composer import Composer

LEFT, RIGHT = Path("left.gguf"), Path("right.gguf")
ENDLESS = {"deltas": ["word "] * 5000, "delay": 0.01}


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """A machine without models of its own."""
    monkeypatch.setattr(models_files, "find_models", lambda folders, usual: iter(()))


def app_with(left=None, right=None, store=None, **options) -> KoalaApp:
    """Return the app with two scripted models: each says its name, unless its script is another."""

    async def start(target, load):
        name = target.stem
        script = {"deltas": [f"I am {name}. ", "**Hi**"], "loaded": {"name": f"{name} [b]model[/]"}}
        script |= (left if target == LEFT else right) or {}
        return await LocalEngine.start(target, load, command=fake_worker(**script))

    return KoalaApp(store=store or Store.open(None), start=start, sampling=Sampling(seed=1), target=LEFT, **options)


async def compare(pilot, target=RIGHT) -> CompareScreen:
    """Open the comparison and choose the second model."""
    screen = CompareScreen()
    pilot.app.push_screen(screen)
    await until(lambda: isinstance(pilot.app.screen, ModelsScreen))
    await pilot.pause()
    if target is not None:
        pilot.app.screen.choose(target, LoadOptions())
        await until(lambda: screen.comparison is not None and pilot.app.screen is screen)
        await pilot.pause()
    return screen


async def say(pilot, text: str) -> None:
    pilot.app.screen.query_one(Composer).insert(text)
    await pilot.press("enter")


def said(screen, place: str) -> list[str]:
    return [entry.text for entry in screen.query_one(f"#{place}").transcript.entries()]


def stats(screen, place: str) -> str:
    return str(screen.query_one(f"#{place} .stats").content)


def shown(app) -> list[str]:
    """What the chat in the store goes on with."""
    return [message.content for message in app.store.path(app.chat_id)]


async def both_answered(screen, replies: int = 1) -> None:
    await until(lambda: len(said(screen, "right")) >= 2 * replies and not screen.comparison.busy)


async def test_both_answer_and_the_chat_goes_on_with_the_left_one():
    app = app_with()
    async with app.run_test(size=(120, 36)) as pilot:
        screen = await compare(pilot)
        await say(pilot, "Who are you?")
        await both_answered(screen)
        await pilot.pause()
        assert said(screen, "left") == ["Who are you?", "I am left. **Hi**"]
        assert said(screen, "right") == ["Who are you?", "I am right. **Hi**"]
        assert stats(screen, "left") == "20.0 tok/s · 100 ms to first · 2 tokens" and "2 tokens" in stats(
            screen, "right"
        )
        text = screen_text(app)
        assert text.count("left [b]model[/]") == 2 and text.count("right [b]model[/]") == 2
        await pilot.press("escape")
        await pilot.pause()
        assert not isinstance(app.screen, CompareScreen)
        assert shown(app) == ["Who are you?", "I am left. **Hi**"]
        entries = app.screen_of_chats.conversation.entries()
        assert [(entry.position, entry.siblings) for entry in entries] == [(1, 1), (1, 2)]


@pytest.mark.parametrize("how", ["key", "mouse"])
async def test_the_right_answers_are_kept_with_their_models_details(how):
    app = app_with()
    async with app.run_test(size=(60, 20) if how == "key" else (120, 36)) as pilot:
        screen = await compare(pilot)
        await say(pilot, "first")
        await both_answered(screen)
        await say(pilot, "second")
        await both_answered(screen, 2)
        await (pilot.press("ctrl+r") if how == "key" else pilot.click("#keep-right"))
        await until(lambda: not isinstance(app.screen, CompareScreen))
        assert shown(app) == ["first", "I am right. **Hi**", "second", "I am right. **Hi**"]
        models = {message.details.get("model") for message in app.store.tree(app.chat_id)} - {None}
        assert models == {"left [b]model[/]", "right [b]model[/]"}


async def test_it_goes_on_from_what_was_said_and_one_waits_for_the_other():
    app = app_with(left={"deltas": ["slow "] * 40, "delay": 0.02})
    async with app.run_test(size=(120, 36)) as pilot:
        await send(pilot, "before")
        await until(lambda: not app.runner.active and app.chat.path)
        screen = await compare(pilot)
        assert said(screen, "left")[0] == said(screen, "right")[0] == "before"
        await say(pilot, "now")
        await until(lambda: said(screen, "left")[-1].startswith("slow"))
        assert stats(screen, "right") == "waits until the left one has answered"
        await until(lambda: not screen.comparison.busy)
        assert said(screen, "right")[-2:] == ["now", "I am right. **Hi**"]


async def test_escape_stops_and_a_second_one_goes_back():
    app = app_with(left=ENDLESS)
    async with app.run_test(size=(120, 36)) as pilot:
        screen = await compare(pilot)
        await say(pilot, "go")
        await until(lambda: said(screen, "left")[-1:] and said(screen, "left")[-1].startswith("word"))
        await pilot.press("escape")
        await until(lambda: not screen.comparison.busy)
        await pilot.pause()
        assert stats(screen, "left").startswith("stopped") and isinstance(app.screen, CompareScreen)
        await pilot.press("escape")
        await until(lambda: not isinstance(app.screen, CompareScreen))
        assert shown(app)[0] == "go" and shown(app)[1].startswith("word ")


async def test_both_at_once():
    app = app_with(left=ENDLESS, right=ENDLESS)
    async with app.run_test(size=(120, 36)) as pilot:
        screen = await compare(pilot)
        await pilot.press("ctrl+t")
        await say(pilot, "go")
        await until(lambda: all(said(screen, place)[-1:] > ["word "] for place in ("left", "right")))
        await pilot.press("ctrl+t", "ctrl+o")
        assert isinstance(app.screen, CompareScreen), "nothing is changed under a running answer"
        await pilot.press("escape")
        await until(lambda: not screen.comparison.busy)


async def test_closing_ends_the_second_process_alone():
    app = app_with()
    async with app.run_test(size=(120, 36)) as pilot:
        screen = await compare(pilot)
        await say(pilot, "go")
        await both_answered(screen)
        first, second = (psutil.Process(side.host.pid) for side in screen.comparison.sides)
        await pilot.press("escape")
        await until(lambda: not second.is_running())
        assert first.is_running()
    assert not first.is_running()


async def test_quitting_leaves_no_process():
    app = app_with(right=ENDLESS)
    async with app.run_test(size=(120, 36)) as pilot:
        screen = await compare(pilot)
        await say(pilot, "go")
        await until(lambda: said(screen, "right")[-1:] > ["word "])
        processes = [psutil.Process(side.host.pid) for side in screen.comparison.sides]
        await pilot.press("ctrl+q")
    await until(lambda: not any(process.is_running() for process in processes))


async def test_without_memory_for_both_they_are_loaded_in_turn(monkeypatch):
    monkeypatch.setattr("tui.screens.compare.has_room_beside", lambda *_: False)
    app = app_with()
    async with app.run_test(size=(120, 36)) as pilot:
        screen = await compare(pilot)
        await until(lambda: "not enough memory for both" in stats(screen, "right"))
        await pilot.press("ctrl+t")
        assert "not enough memory for both" in toasts(app)[-1] and not screen.comparison.together
        await say(pilot, "go")
        await both_answered(screen)
        assert app.host.running is None and screen.comparison.right.host.running is not None
        await pilot.press("escape")
        await until(lambda: app.host.running is not None)


async def test_a_model_that_cannot_be_loaded_is_a_sentence_and_the_message_comes_back():
    app = app_with(left={"load_error": "the left is odd"}, right={"load_error": "the right [b]is odd"})
    async with app.run_test(size=(120, 36)) as pilot:
        screen = await compare(pilot)
        await until(lambda: "the right [b]is odd" in stats(screen, "right"))
        await say(pilot, "are you there?")
        await until(lambda: screen.query_one(Composer).text == "are you there?")
        assert said(screen, "left") == said(screen, "right") == []
        await pilot.press("escape")
        await until(lambda: not isinstance(app.screen, CompareScreen))
        assert composed(app) == "are you there?", "nothing typed is lost"


async def test_the_second_model_has_settings_of_its_own():
    app = app_with()
    async with app.run_test(size=(120, 36)) as pilot:
        screen = await compare(pilot)
        await pilot.press("ctrl+s")
        await until(lambda: isinstance(app.screen, SamplingScreen))
        app.screen.query_one("#row-temperature").field.value = "200"
        await pilot.press("ctrl+s")
        assert isinstance(app.screen, SamplingScreen), "that is out of range"
        app.screen.query_one("#row-temperature").field.value = "1.5"
        await pilot.press("ctrl+s")
        await until(lambda: app.screen is screen)
        await say(pilot, "go")
        await both_answered(screen)
        replies = [message for message in app.store.tree(app.chat_id) if message.role == "assistant"]
        assert [reply.details["sampling"]["temperature"] for reply in replies] == [0.7, 1.5]


async def test_without_a_second_model_it_says_how_to_choose_one():
    app = app_with()
    async with app.run_test(size=(60, 20)) as pilot:
        screen = await compare(pilot, target=None)
        await pilot.press("escape")
        await pilot.pause()
        assert app.screen is screen and "Ctrl+O chooses the second model" in screen_text(app)
        await pilot.press("ctrl+r")
        assert "There is no answer to keep yet." in toasts(app)
        await say(pilot, "hello")
        await until(lambda: isinstance(app.screen, ModelsScreen))
        await pilot.press("escape", "escape")
        await until(lambda: not isinstance(app.screen, (CompareScreen, ModelsScreen)))
        assert composed(app) == "hello"


async def test_another_second_model_goes_on_from_the_left_answers():
    app = app_with()
    async with app.run_test(size=(120, 36)) as pilot:
        screen = await compare(pilot)
        await say(pilot, "first")
        await both_answered(screen)
        before = screen.comparison.right.host
        await pilot.press("ctrl+o")
        await until(lambda: isinstance(app.screen, ModelsScreen))
        await pilot.pause()
        app.screen.choose(Path("third.gguf"), LoadOptions())
        await until(lambda: screen.comparison.right.host is not before and before.running is None)
        await until(lambda: said(screen, "right") == ["first", "I am left. **Hi**"])
        await say(pilot, "second")
        await both_answered(screen, 2)
        assert said(screen, "right")[-1] == "I am third. **Hi**"


def test_room_for_two_is_estimated_before_loading(tmp_path, monkeypatch):
    from inference.machine import Memory
    from tests.tiny_gguf import write_tiny_gguf
    from tui.model_host import Endpoint, ModelHost

    first, second = write_tiny_gguf(tmp_path / "a.gguf"), write_tiny_gguf(tmp_path / "b.gguf")
    host = ModelHost(lambda *_: asyncio.sleep(0), first, LoadOptions())
    needs = 90 * 2**20
    for available, expected in [(16 * needs, True), (1.5 * needs, False), (needs // 2, False)]:
        memory = Memory(2**40, int(available))
        monkeypatch.setattr(model_facts, "usable_memory", lambda memory=memory: memory)
        assert model_facts.has_room_beside(host, second, LoadOptions(n_ctx=512)) is expected
        assert model_facts.has_room_beside(host, Endpoint("http://localhost"), LoadOptions())
        assert model_facts.has_room_beside(host, tmp_path / "none.gguf", LoadOptions()), "loading says why"
