"""One message of a conversation as lines."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ..markdown.blocks import Run
from ..markdown.cells import cells
from ..markdown.layout import Action, Line, flow
from ..text import harmless

if TYPE_CHECKING:
    from ..markdown.stream import Document, Page

TAB = 4
AVERAGE_OVERHEAD = 3  # lines for speaker, note and the air below, where a height is only estimated


@dataclass
class Entry:
    """A message, a notice of the app, or a marker such as "12 earlier messages are folded away".

    `key` is the message's id, or negative for notices and markers. `text` of a reply is Markdown, all other text is
    shown as it is. `position` of `siblings` versions is shown where there are several.
    """

    key: int
    kind: Literal["user", "reply", "notice", "marker"]
    text: str
    speaker: str = ""
    note: str = ""
    position: int = 1
    siblings: int = 1
    streaming: bool = False


class EntryLines:
    """The lines of an entry at a width; made when they are asked for, and only as far as they changed.

    `height` is an estimate until `update` has been called. The last line of every entry is empty.
    """

    def __init__(self, entry: Entry, width: int) -> None:
        self.entry, self.width = entry, width
        self.laid_out = False
        self._document: Document | None = None
        self._page: Page | None = None
        self._head: list[Line] = []
        self._body: list[Line] = []
        self._foot: list[Line] = []
        self.height = _estimate(entry, width)

    # ---- what it is made of

    def add(self, text: str) -> None:
        """Append to the text of the entry."""
        self.entry.text += text
        if self._document is not None:
            self._document.add(harmless(text))

    def renew(self) -> None:
        """Begin again, because the entry has another text."""
        self._document = self._page = None
        self.laid_out = False

    def resize(self, width: int) -> None:
        """Take another width; the lines are laid out when they are needed."""
        if width != self.width:
            self.height = max(1, self.height * self.width // max(1, width)) if self.laid_out else self.height
            self.width, self.laid_out, self._page = width, False, None

    def code_blocks(self) -> list[str]:
        """Return the sources of the code blocks of a reply."""
        if self.entry.kind != "reply":
            return []
        self._read()
        return self._document.code_blocks()

    def _read(self) -> None:
        if self._document is None:
            from ..markdown.stream import Document  # with the parser, which the first frame does not need

            self._document = Document()
            self._document.add(harmless(self.entry.text))
        if self.entry.streaming:
            self._document.update()
        else:
            self._document.finish()

    # ---- lines

    def update(self) -> int:
        """Bring the lines up to date; return the index of the first one that changed."""
        old_head, old_body = len(self._head), len(self._body)
        head, foot = _head(self.entry), _foot(self.entry, self.width)
        if self.entry.kind == "reply":
            self._read()
            if self._page is None:
                from ..markdown.stream import Page

                self._page = Page(self._document, self.width)
            changed = len(head) + self._page.update()
            self._body = self._page.lines
        else:
            changed = 0
            self._body = _body(self.entry, self.width)
        if head != self._head or not self.laid_out:
            self._head, changed = head, 0
        if foot != self._foot:
            changed = min(changed, old_head + old_body, len(head) + len(self._body))
            self._foot = foot
        elif len(self._body) != old_body:
            changed = min(changed, old_head + old_body)
        self.laid_out = True
        self.height = len(self._head) + len(self._body) + len(self._foot)
        return changed

    def line(self, index: int) -> Line:
        """Return the line with this index, after `update`."""
        for part in (self._head, self._body, self._foot):
            if index < len(part):
                return part[index]
            index -= len(part)
        raise IndexError("the entry has no such line")

    @property
    def body(self) -> range:
        """The indexes of the lines of the text itself, after `update`."""
        return range(len(self._head), len(self._head) + len(self._body))

    def is_head(self, line: Line) -> bool:
        """Return whether the line says who speaks."""
        return any(line is head for head in self._head)


def _estimate(entry: Entry, width: int) -> int:
    return AVERAGE_OVERHEAD + entry.text.count("\n") + len(entry.text) // max(1, width)


def _head(entry: Entry) -> list[Line]:
    pieces, actions = [], []
    if entry.speaker:
        pieces.append(Run(harmless(entry.speaker).replace("\n", " "), f"speaker {entry.kind}-speaker"))
    if entry.siblings > 1:
        if pieces:
            pieces.append(Run("  ", "speaker"))
        start = sum(cells(piece.text) for piece in pieces)
        text = f"{entry.position}/{entry.siblings}"
        pieces += [Run("‹", "sibling-arrow"), Run(text, "siblings"), Run("›", "sibling-arrow")]
        middle = start + 1 + len(text) // 2
        actions = [Action("sibling", -1, start, middle), Action("sibling", 1, middle, start + len(text) + 2)]
    style = "user" if entry.kind == "user" else ""
    if style:
        pieces = [Run(piece.text, f"{style} {piece.style}") for piece in pieces]
    return [Line(pieces, 0, None, style, tuple(actions))] if pieces else []


def _foot(entry: Entry, width: int) -> list[Line]:
    lines = flow([Run(harmless(entry.note).strip(), "note")], width) if entry.note else []
    return [*lines, Line([])]


def _body(entry: Entry, width: int) -> list[Line]:
    """Return the lines of a text that is shown as it is."""
    text = "\n".join(line.expandtabs(TAB) for line in harmless(entry.text.replace("\r\n", "\n")).split("\n"))
    if entry.kind == "marker":
        return _marker(text, width)
    lines = flow([Run(text)], width, entry.kind)
    if entry.kind == "user":
        for line in lines:
            line.fill = "user"
    return lines


def _marker(text: str, width: int) -> list[Line]:
    """Return the text in the middle of a rule, or below each other where it is too long for that."""
    text = text.replace("\n", " ")
    space = width - cells(text) - 2
    if space < 4:
        return flow([Run(text)], width, "marker")
    left = space // 2
    pieces = [Run("─" * left, "marker-rule"), Run(f" {text} ", "marker"), Run("─" * (space - left), "marker-rule")]
    return [Line(pieces)]
