"""A question that is answered with one line of text."""

from collections.abc import Iterable

from textual.widget import Widget
from textual.widgets import Input, Static

from ..text import harmless
from .dialog import Dialog


class PromptScreen(Dialog[str]):
    """Asks for a line; its result is the line, or None where the user left."""

    def __init__(self, question: str, text: str = "") -> None:
        super().__init__()
        self._question, self._text = question, text

    def content(self) -> Iterable[Widget]:
        """Yield the question and its field."""
        yield Static(self._question, markup=False)
        yield Input(harmless(self._text).replace("\n", " "), select_on_focus=True)
        yield Static("Enter takes it · Esc leaves it as it was", classes="muted", markup=False)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Give the line back."""
        self.dismiss(" ".join(event.value.split()) or None)
