"""What stands in a chat before anything was said: which model this is, what to do, and what to expect of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from textwrap import wrap

from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widgets import Static

from ..commands import command, key_names
from ..text import harmless

MOST_CELLS = 76
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
        & > Static { width: 100%; text-align: center; }
    }
    """

    def __init__(self, keys: Mapping[str, str]) -> None:
        super().__init__(id="empty-state")
        self._keys = keys
        self._greeting = Greeting()
        self._text = Static()

    def compose(self) -> ComposeResult:
        """Lay out the one text that it is."""
        yield self._text

    def greet(self, greeting: Greeting) -> None:
        """Say this from now on."""
        if greeting != self._greeting:
            self._greeting = greeting
            self._draw()

    def on_resize(self) -> None:
        """Fold the paragraph to the new width."""
        self._draw()

    def _draw(self) -> None:
        if not self.size.width:
            return  # its size comes later, and then this
        greeting, width = self._greeting, max(20, min(MOST_CELLS, self.size.width - 4))
        parts = [
            Content.styled(KOALA_FACE, "bold $primary"),
            Content.styled(harmless(greeting.name)[:60], "bold"),
            Content(greeting.invitation),
            self._key_lines(KEYS if greeting.honesty else FEW_KEYS),
        ]
        if greeting.details:
            parts[1] = Content.assemble(parts[1], "\n", (harmless(greeting.details), "$foreground-muted"))
        if greeting.honesty:
            lines = wrap(harmless(greeting.honesty), width)
            longest = max(map(len, lines))
            parts.append(Content.styled("\n".join(line.ljust(longest) for line in lines), "$foreground-muted"))
        self._text.update(Content("\n\n").join(parts))

    def _key_lines(self, names: tuple[str, ...]) -> Content:
        """Return the keys in two columns, all lines of one length."""
        cells = [(key_names(command(name), self._keys).split(", ")[0], SHORT[name]) for name in names]
        left, right = cells[: len(cells) // 2], cells[len(cells) // 2 :]
        return Content("\n").join(
            _cell(*one, left) + "   " + _cell(*two, right) for one, two in zip(left, right, strict=True)
        )


def _cell(key: str, what: str, column: list[tuple[str, str]]) -> Content:
    keys, texts = (max(len(cell[index]) for cell in column) for index in (0, 1))
    return Content.assemble((key.rjust(keys), "bold $secondary"), (f"  {what.ljust(texts)}", "$foreground-muted"))


def short_count(count: float, units: tuple[str, ...]) -> str:
    """Return the count in the largest of the units, each 1,000 times the one before, that leaves a digit."""
    index = 0
    while count >= 1000 and index < len(units) - 1:
        count, index = count / 1000, index + 1
    return f"{count:.3g}{units[index]}"
