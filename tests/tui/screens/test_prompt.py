import pytest
from textual.app import App

from tests.tui.conftest import screen_text
from tui.screens.prompt import PromptScreen


class PromptApp(App):
    def __init__(self, text="") -> None:
        super().__init__()
        self.text, self.results = text, []

    def on_mount(self):
        self.push_screen(PromptScreen("What [b]name[/b]?", self.text), self.results.append)


@pytest.mark.parametrize(("typed", "result"), [("new  name ", "new name"), ("   ", None), ("[b]x[/b]", "[b]x[/b]")])
async def test_a_line_is_asked_for(typed, result):
    app = PromptApp("old")
    async with app.run_test(size=(60, 12)) as pilot:
        assert "What [b]name[/b]?" in screen_text(app) and "old" in screen_text(app)
        await pilot.press(*typed, "enter")
        await pilot.pause()
        assert app.results == [result], "what was there is replaced"


async def test_leaving():
    app = PromptApp("two\nlines\x1b")
    async with app.run_test(size=(60, 12)) as pilot:
        assert "two lines␛" in screen_text(app)
        await pilot.press("escape")
        await pilot.pause()
        assert app.results == [None]
