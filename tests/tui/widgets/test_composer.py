import pytest
from textual import events
from textual.app import App

from tests.tui.conftest import screen_text
from tui.widgets.composer import Composer


class ComposerApp(App):
    CSS = "Composer { height: auto; max-height: 6; overflow-y: scroll; }"

    def __init__(self, history=()) -> None:
        super().__init__()
        self.composer = Composer("Message …", lambda: list(history))
        self.sent, self.heard = [], []

    def compose(self):
        yield self.composer

    def on_mount(self):
        self.composer.focus()

    def on_composer_submitted(self, message):
        self.sent.append(message.text)

    def on_composer_tab_pressed(self, message):
        self.heard.append("tab")

    def on_composer_help_wanted(self, message):
        self.heard.append("help")

    def on_composer_nothing_to_undo(self, message):
        self.heard.append("undo")

    def on_composer_dropped(self, message):
        self.heard.append(message.files)


async def test_sending_and_new_lines():
    app = ComposerApp()
    async with app.run_test() as pilot:
        await pilot.press("enter", "space", "enter")
        assert app.sent == []
        await pilot.press("backspace", "a", "ctrl+j", "b", "shift+enter", "c", "alt+enter", "d", "enter")
        assert app.sent == ["a\nb\nc\nd"] and app.composer.text == ""


async def test_it_grows_and_scrolls():
    app = ComposerApp()
    async with app.run_test(size=(40, 20)) as pilot:
        assert app.composer.size.height == 1
        app.composer.insert("\n".join(f"line {number}" for number in range(30)))
        await pilot.pause()
        assert app.composer.size.height == 6 and "line 29" in screen_text(app)


async def test_control_characters_never_reach_the_terminal():
    app = ComposerApp()
    async with app.run_test(size=(60, 6)) as pilot:
        app.composer.insert("\x1b[31m\u202e\x9bm x\x07")  # not by a paste
        await pilot.pause()
        shown = screen_text(app)
        assert not set("\x1b\x07\u202e\x9b") & set(shown) and "␛[31m��m x" in shown
        app.composer.post_message(events.Paste("\x1b[0m\r\nnext"))
        await pilot.pause()
        assert app.composer.text.endswith("x\x07␛[0m\nnext")


async def test_a_paste_replaces_what_is_selected():
    app = ComposerApp()
    async with app.run_test() as pilot:
        await pilot.press(*"abc", "shift+left", "shift+left")
        app.composer.post_message(events.Paste("X"))
        await pilot.pause()
        assert app.composer.text == "aX"


async def test_history():
    app = ComposerApp(["newest", "older\nof two lines", "oldest"])
    async with app.run_test() as pilot:
        await pilot.press(*"now", "up")
        assert app.composer.text == "newest"
        await pilot.press("up", "up", "up")
        assert app.composer.text == "oldest"
        await pilot.press("down")
        assert app.composer.text == "older\nof two lines"
        await pilot.press("up")
        assert app.composer.text == "older\nof two lines", "the arrow moves within the text first"
        await pilot.press("up")
        assert app.composer.text == "oldest"
        await pilot.press("down", "down", "down")
        assert app.composer.text == "now"
        await pilot.press("down")
        assert app.composer.text == "now", "there is nothing after it"


async def test_history_that_was_changed_is_a_new_text():
    app = ComposerApp(["newest", "older"])
    async with app.run_test() as pilot:
        await pilot.press("up", "end", "!", "up")
        assert app.composer.text == "newest"
        await pilot.press("down")
        assert app.composer.text == "newest!"


async def test_questions_tab_and_undo_are_handed_on():
    app = ComposerApp()
    async with app.run_test() as pilot:
        await pilot.press("?", "tab", "ctrl+z")
        await pilot.pause()
        assert app.heard == ["help", "tab", "undo"] and app.composer.text == ""
        await pilot.press("a", "?", "ctrl+z")
        assert app.heard == ["help", "tab", "undo"] and app.composer.text in ("", "a")


async def test_dropped_files_are_told(tmp_path):
    (tmp_path / "a b.txt").write_text("x")
    app = ComposerApp()
    async with app.run_test() as pilot:
        app.composer.post_message(events.Paste(f"'{tmp_path / 'a b.txt'}'"))
        await pilot.pause()
        assert app.heard == [[tmp_path / "a b.txt"]] and app.composer.text == f"'{tmp_path / 'a b.txt'}'"


@pytest.mark.parametrize("lines", [1, 5, 40])
async def test_undo_of_many_lines_does_not_break(lines):
    # Textual's own field breaks where an undo makes its scrollbar go away.
    app = ComposerApp()
    async with app.run_test(size=(40, 12)) as pilot:
        await pilot.press(*"abc")
        app.composer.add_block("x\n" * lines)
        await pilot.pause()
        await pilot.press("ctrl+z")
        assert app.composer.text == "abc"
        await pilot.press("ctrl+y")
        assert app.composer.text == "abc\n" + "x\n" * lines


async def test_a_text_that_comes_back_stands_above_what_was_written_since():
    app = ComposerApp()
    async with app.run_test():
        app.composer.put_back("first")
        assert app.composer.text == "first"
        app.composer.put_back("before")
        assert app.composer.text == "before\n\nfirst"
