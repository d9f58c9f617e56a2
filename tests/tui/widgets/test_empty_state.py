from textual.app import App

from tests.tui.conftest import screen_text, until
from tui.honesty import honesty
from tui.widgets.empty_state import EmptyState, Greeting, short_count


class EmptyApp(App):
    def __init__(self, greeting: Greeting, keys=None) -> None:
        super().__init__()
        self.empty, self.greeting = EmptyState(keys or {}), greeting

    def compose(self):
        yield self.empty

    def on_mount(self):
        self.empty.greet(self.greeting)


async def drawn(greeting: Greeting, size, keys=None) -> str:
    app = EmptyApp(greeting, keys)
    async with app.run_test(size=size):
        await until(lambda: "F1" in screen_text(app))
        return screen_text(app)


async def test_on_first_run_it_explains_itself():
    shown = await drawn(Greeting("Koala [b]7B\x1b", "llama · Q4", honesty=honesty()), (90, 30))
    assert "Koala [b]7B␛" in shown and "llama · Q4" in shown and "Type a message and press Enter." in shown
    for key in ("Ctrl+J", "Esc", "Ctrl+O", "Ctrl+F", "Ctrl+B", "F1", "Ctrl+Q"):
        assert key in shown
    text = " ".join(shown.split())
    assert "makes things up" in text and "biases" in text and "for research" in text
    assert "Everything stays on this machine" in text


async def test_later_it_is_short():
    shown = await drawn(Greeting("Koala"), (90, 30))
    assert "makes things up" not in shown and "Ctrl+J" not in shown and "F1" in shown


async def test_the_users_keys_are_shown():
    assert "F12" in await drawn(Greeting("Koala"), (90, 30), {"search": "f12"})


async def test_small_terminals_can_scroll_to_all_of_it():
    app = EmptyApp(Greeting("Koala", "details", honesty=honesty("http://localhost:8080")))
    async with app.run_test(size=(40, 12)) as pilot:
        await until(lambda: "Koala" in screen_text(app))
        app.empty.scroll_end(animate=False)
        await pilot.pause()
        assert "http://localhost:8080" in " ".join(screen_text(app).split()).replace(" ", "")


def test_where_the_words_go_is_said():
    assert "sent to http://x" in honesty("http://x") and "stays on this machine" not in honesty("http://x")


def test_counts_are_short():
    units = ("", "k", "M", "B")
    assert [short_count(n, units) for n in (7, 999, 1500, 6_740_000_000, 10**13)] == [
        "7",
        "999",
        "1.5k",
        "6.74B",
        "1e+04B",
    ]
