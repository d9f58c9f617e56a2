"""Where the user writes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from textual import events
from textual.binding import BindingType
from textual.message import Message
from textual.widgets import TextArea

from ..attachments import dropped_files
from ..commands import bindings
from ..text import REPLACEMENT, harmless


class Composer(TextArea):
    """A text field that grows with the text up to a third of the screen. The keys are those of the table of commands.

    What is sent leaves it at once; whoever cannot take it puts it back. `history` gives what was sent before, newest
    first; the arrow keys go through it from the first and the last line.
    """

    BINDINGS: ClassVar[list[BindingType]] = bindings("composer")

    @dataclass
    class Submitted(Message):
        """The user wants to send `text`."""

        text: str

    @dataclass
    class Dropped(Message):
        """The user dropped these files; `pasted` is what arrived."""

        files: list[Path]
        pasted: str

    class TabPressed(Message):
        """The user wants a word completed, or to go elsewhere."""

    class HelpWanted(Message):
        """The user asked `?` of an empty field."""

    class NothingToUndo(Message):
        """Undo was asked for, and not of the text."""

    def __init__(self, placeholder: str, history: Callable[[], Sequence[str]] = list) -> None:
        super().__init__(
            placeholder=placeholder, soft_wrap=True, compact=True, highlight_cursor_line=False, id="composer"
        )
        self.cursor_blink = False  # a blinking cursor draws the screen for ever
        self._history = history
        self._past: Sequence[str] = ()
        self._place = -1  # in the past; -1 is what is being written now
        self._unsent = ""

    # ---- the text

    def fill(self, text: str) -> None:
        """Replace the text, with the cursor behind it."""
        self._place = -1
        self.load_text(harmless(text))
        self.move_cursor(self.document.end)

    def put_back(self, text: str) -> None:
        """Return a text that could not be sent, above whatever has been written since."""
        self.fill(f"{text}\n\n{self.text}" if self.text.strip() else text)

    def add_block(self, text: str, in_place_of: str = "") -> None:
        """Insert a block on its own lines, where that text stands last or else at the cursor; one undo undoes it."""
        place = self.text.rfind(in_place_of) if in_place_of else -1
        start, end = self.selection
        if place >= 0:
            start, end = map(self.document.get_location_from_index, (place, place + len(in_place_of)))
        row, column = start
        before = "\n" if self.document.get_line(row)[:column].strip() else ""
        self.history.checkpoint()
        self.replace(before + text, start, end, maintain_selection_offset=False)
        self.history.checkpoint()

    def on_resize(self) -> None:
        """Keep the cursor in sight when the field grows."""
        self.scroll_cursor_visible()

    def get_line(self, line_index: int):
        """Return a line as it is drawn: control characters, whatever put them there, as visible symbols."""
        line = super().get_line(line_index)
        shown = harmless(line.plain)
        if shown != line.plain:  # character by character, so that the cursor stays where it belongs
            line.plain = "".join(
                symbol if len(symbol) == 1 and symbol != "\n" else REPLACEMENT for symbol in map(harmless, line.plain)
            )
        return line

    # ---- keys

    async def _on_key(self, event: events.Key) -> None:
        if event.character == "?" and not self.text:
            event.stop()
            event.prevent_default()
            self.post_message(self.HelpWanted())
        elif not event.is_printable:
            # Here, in the order of typing: a binding with priority would overtake letters that came in one burst.
            active = self.screen.active_bindings.get(event.key)
            if active is not None and active.node is self:
                event.stop()
                event.prevent_default()
                await self.run_action(active.binding.action)

    def _on_paste(self, event: events.Paste) -> None:
        event.stop()
        event.prevent_default()
        files = dropped_files(event.text)
        text = harmless(event.text.replace("\r\n", "\n").replace("\r", "\n"))
        self.history.checkpoint()
        self.replace(text, *self.selection, maintain_selection_offset=False)
        self.focus()
        if files:
            self.post_message(self.Dropped(files, text))

    def action_send(self) -> None:
        """Hand the text over, if there is any; what is typed from now on belongs to the next message."""
        if text := self.text.strip():
            self.fill("")
            self.post_message(self.Submitted(text))

    def action_new_line(self) -> None:
        """Begin a new line at the cursor."""
        self.insert("\n")

    def action_complete(self) -> None:
        """Leave it to the screen what Tab does."""
        self.post_message(self.TabPressed())

    def action_undo(self) -> None:
        """Undo what was typed, or else whatever the app did last."""
        if self.history.undo_stack:
            super().action_undo()
        else:
            self.post_message(self.NothingToUndo())

    def action_cursor_up(self, select: bool = False) -> None:
        """Go up; from the first line, back in time."""
        if not select and self.navigator.is_first_wrapped_line(self.cursor_location) and self._recall(1):
            return
        super().action_cursor_up(select)

    def action_cursor_down(self, select: bool = False) -> None:
        """Go down; from the last line, forth in time."""
        if not select and self.navigator.is_last_wrapped_line(self.cursor_location) and self._recall(-1):
            return
        super().action_cursor_down(select)

    def _recall(self, step: int) -> bool:
        """Show what was sent `step` messages before what is shown; return whether there is such a thing."""
        if self._place >= 0 and self.text != self._past[self._place]:
            self._place = -1  # it was changed, and so is a text of its own
        if self._place < 0:
            if step < 0:
                return False
            self._past = [harmless(text) for text in self._history()]
            self._unsent = self.text
        place = self._place + step
        if place >= len(self._past):
            return False
        text = self._past[place] if place >= 0 else self._unsent
        self.fill(text)
        self._place = place
        if step > 0:
            self.move_cursor((0, 0))
        return True
