"""What stands in a chat before anything was said: which model this is, what to do, and what to expect of it."""

from collections.abc import Mapping
from dataclasses import dataclass

from textual.app import ComposeResult
from textual.containers import Center, VerticalScroll
from textual.content import Content
from textual.widgets import Static

from ..commands import command, key_names
from ..text import harmless

KOALA_FACE = "ʕ •ᴥ• ʔ"
KEYS = ("send", "new-line", "stop", "model", "search", "sidebar", "help", "quit")
FEW_KEYS = ("send", "model", "search", "help")
SHORT = {
    "send": "send",
    "new-line": "new line",
    "stop": "stop the reply",
    "model": "models",
    "search": "search",
    "sidebar": "chats",
    "help": "all keys",
    "quit": "quit",
}


@dataclass(frozen=True)
class Greeting:
    """What the empty state says. `honesty` is "" where the user has read it before."""

    name: str = ""
    details: str = ""
    invitation: str = "Type a message and press Enter."
    honesty: str = ""


class EmptyState(VerticalScroll, can_focus=False):
    """The face, the model, an invitation, a few keys, and at first the honest paragraph."""

    DEFAULT_CSS = """
    EmptyState {
        align: center middle;
        scrollbar-size-vertical: 1;
        & Static { width: 100%; text-align: center; }
        & Center { height: auto; }
        & #face { color: $primary; text-style: bold; }
        & #model-name { text-style: bold; margin-top: 1; }
        & #details { color: $foreground-muted; }
        & #invitation { margin-top: 1; }
        & #keys { width: auto; text-align: left; margin-top: 1; color: $foreground-muted; }
        & #honesty { margin-top: 1; color: $foreground-muted; max-width: 76; text-align: left; }
    }
    """

    def __init__(self, keys: Mapping[str, str]) -> None:
        super().__init__(id="empty-state")
        self._keys = keys
        self._greeting: Greeting | None = None

    def compose(self) -> ComposeResult:
        """Lay out the lines."""
        yield Static(KOALA_FACE, id="face", markup=False)
        yield Static(id="model-name", markup=False)
        yield Static(id="details", markup=False)
        yield Static(id="invitation", markup=False)
        with Center():
            yield Static(id="keys")
        with Center():
            yield Static(id="honesty", markup=False)

    def greet(self, greeting: Greeting) -> None:
        """Say this from now on."""
        if greeting == self._greeting:
            return
        self._greeting = greeting
        texts = {
            "model-name": harmless(greeting.name)[:60],
            "details": harmless(greeting.details),
            "invitation": greeting.invitation,
            "honesty": greeting.honesty,
        }
        for name, text in texts.items():
            line = self.query_one(f"#{name}", Static)
            line.update(text)
            line.display = bool(text)
        self.query_one("#keys", Static).update(self._key_lines(KEYS if greeting.honesty else FEW_KEYS))

    def _key_lines(self, names: tuple[str, ...]) -> Content:
        """Return the keys in two columns."""
        cells = [(key_names(command(name), self._keys).split(", ")[0], SHORT[name]) for name in names]
        half = (len(cells) + 1) // 2
        lines = []
        for left, right in zip(cells[:half], [*cells[half:], None][:half], strict=True):
            lines.append(_cell(*left, cells[:half]) + (_cell(*right, cells[half:]) if right else Content("")))
        return Content("\n").join(lines)


def _cell(key: str, what: str, column: list[tuple[str, str]]) -> Content:
    keys, texts = (max(len(cell[index]) for cell in column) for index in (0, 1))
    return Content.assemble((key.rjust(keys), "bold $secondary"), f"  {what.ljust(texts + 3)}")


def short_count(count: float, units: tuple[str, ...]) -> str:
    """Return the count in the largest of the units, each 1,000 times the one before, that leaves a digit."""
    index = 0
    while count >= 1000 and index < len(units) - 1:
        count, index = count / 1000, index + 1
    return f"{count:.3g}{units[index]}"
