"""What the screens over the chat have in common: a heading, a foot that names the keys, and the way back."""

from collections.abc import Iterable
from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.content import Content
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import Button, Footer, Static

from ..text import harmless


class Page(Screen[None]):
    """A screen over the chat. Esc goes back.

    A subclass names its `HEADING` and yields its widgets from `content`.
    """

    HEADING: ClassVar[str] = ""
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "leave", "back", key_display="Esc")]
    HORIZONTAL_BREAKPOINTS: ClassVar[list[tuple[int, str]] | None] = [(0, "-narrow"), (76, "-medium"), (116, "-wide")]
    VERTICAL_BREAKPOINTS: ClassVar[list[tuple[int, str]] | None] = [(0, "-low"), (30, "-high")]

    def compose(self) -> ComposeResult:
        """Lay out the heading, the content, and the keys."""
        with Horizontal(id="heading"):
            yield Static(self.HEADING, id="title", markup=False)
            yield Static(id="summary", markup=False)
        yield from self.content()
        yield Footer(show_command_palette=False, compact=True)

    def content(self) -> Iterable[Widget]:
        """Yield what stands between heading and foot."""
        return ()

    def summarize(self, text: str) -> None:
        """Say in the heading, on the right, what is to be said about it all."""
        self.query_one("#summary", Static).update(harmless(text).replace("\n", " "))

    def action_leave(self) -> None:
        """Go back to where the user came from."""
        self.dismiss()


def button(label: str, **options: Any) -> Button:
    """Return a button of one line; its label may hold anything."""
    return Button(Content(harmless(label)), compact=True, **options)
