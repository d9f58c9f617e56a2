import pytest
from textual.app import App

from tests.tui.conftest import screen_text
from tui.widgets.command_hints import MOST, CommandHints


class HintsApp(App):
    def __init__(self) -> None:
        super().__init__()
        self.hints = CommandHints({"search": "f12"})

    def compose(self):
        yield self.hints


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("/ne", ["new", "next"]),
        ("/search", ["search"]),
        ("/search words", ["search"]),
        ("/set temperature", ["set"]),
        ("", []),
        ("hello /new", []),
        ("//new", []),
        ("/usr/bin", []),
        ("/new\nline", []),
    ],
)
async def test_what_is_offered(typed, offered):
    app = HintsApp()
    async with app.run_test(size=(90, 20)) as pilot:
        app.hints.offer(typed)
        await pilot.pause()
        assert [each.name for each in app.hints.commands] == offered
        assert app.hints.display == bool(offered)


async def test_a_few_lines_with_the_users_keys():
    app = HintsApp()
    async with app.run_test(size=(90, 20)) as pilot:
        app.hints.offer("/")
        await pilot.pause()
        assert f"… and {len(app.hints.commands) - MOST} more" in screen_text(app)
        app.hints.offer("/sea")
        await pilot.pause()
        assert "/search [TEXT]  search everything that was ever said  F12" in screen_text(app)
        app.hints.offer("")
        await pilot.pause()
        assert screen_text(app).strip() == ""
