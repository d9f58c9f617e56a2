"""What goes in and out where a chat is held line by line: lines of the user, words of the model."""

import os
from collections.abc import Callable
from datetime import datetime
from typing import TextIO

from .store import Chat
from .text import harmless

YOU, KOALA, MORE = "You: ", "Koala: ", "more: "
BLOCK = '"""'
LONGEST_WORD = 40  # characters that are held back in the hope of a space


class Lines:
    """The lines that the user types, or that somebody pipes in; these are echoed, for whoever reads the output."""

    def __init__(self, source: TextIO, out: TextIO, history: Callable[[], list[str]]) -> None:
        self._source, self._out = source, out
        self._typed = source.isatty() and out.isatty()
        if self._typed and os.environ.get("TERM", "dumb") != "dumb":
            # Without it a line cannot be longer than 4,095 bytes, and a paste of several lines is several messages.
            try:
                import readline
            except ImportError:
                return
            for line in reversed(history()):
                if "\n" not in line:
                    readline.add_history(line)

    def read(self, prompt: str) -> str:
        """Return the next line without its end.

        Raises:
            EOFError: there is none.
            KeyboardInterrupt: Ctrl+C.
        """
        if self._typed:
            return input(prompt)
        self._out.write(prompt)
        self._out.flush()
        line = self._source.readline()
        if not line:
            self._out.write("\n")
            raise EOFError
        self._out.write(harmless(line if line.endswith("\n") else f"{line}\n"))
        return line.removesuffix("\n")

    def message(self) -> str:
        """Return what the user says: a line, several that end in a backslash, or all from one \"\"\" to the next."""
        line = self.read(YOU)
        if line.lstrip().startswith(BLOCK):
            return self._block(line.lstrip().removeprefix(BLOCK))
        lines = [line]
        while lines[-1].endswith("\\"):
            lines[-1] = lines[-1].removesuffix("\\")
            lines.append(self.read(MORE))
        return "\n".join(lines)

    def _block(self, first: str) -> str:
        lines = [first]
        while not lines[-1].rstrip().endswith(BLOCK):
            try:
                lines.append(self.read(MORE))
            except EOFError:
                break
        lines[-1] = lines[-1].rstrip().removesuffix(BLOCK)
        return "\n".join(lines).strip("\n")


class Words:
    """Writes a reply word by word: a screen reader that is given halves of words spells them."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._held, self._begun, self._at_line_start = "", False, True

    def add(self, text: str) -> None:
        """Write as much of it as are whole words."""
        self._held += harmless(text)
        whole = max(self._held.rfind(" "), self._held.rfind("\n")) + 1
        self._write(whole or (len(self._held) if len(self._held) > LONGEST_WORD else 0))

    def end(self) -> None:
        """Write the rest, and end the line."""
        self._write(len(self._held))
        if not self._at_line_start:
            self._out.write("\n")
            self._out.flush()
        self._begun, self._at_line_start = False, True

    def _write(self, count: int) -> None:
        if count:
            ready, self._held = self._held[:count], self._held[count:]
            self._out.write(ready if self._begun else KOALA + ready)
            self._out.flush()
            self._begun, self._at_line_start = True, ready.endswith("\n")


def describe_chat(chat: Chat) -> str:
    """Return a chat as a line of a list: its number, title, size and day."""
    day = datetime.fromtimestamp(chat.updated).strftime("%Y-%m-%d")
    return f"{chat.id}: {chat.title or 'untitled'} ({chat.messages} messages, {day})"
