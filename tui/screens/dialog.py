"""What the small screens over the chat have in common: a framed box in the middle, and Esc to leave it."""

from collections.abc import Iterable
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen, ScreenResultType
from textual.widget import Widget


class Dialog(ModalScreen[ScreenResultType]):
    """A box over the chat. A subclass yields its widgets from `content`."""

    HEADING: ClassVar[str] = ""
    CSS_PATH = "dialog.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "leave", "Back", show=False)]

    def compose(self) -> ComposeResult:
        """Lay out the box."""
        with Vertical() as box:
            box.border_title = self.HEADING
            yield from self.content()

    def content(self) -> Iterable[Widget]:
        """Yield what stands in the box."""
        return ()

    def action_leave(self) -> None:
        """Go back and change nothing."""
        self.dismiss(None)
