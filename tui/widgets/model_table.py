"""A table of models that shows as many columns as there is room for."""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from textual.content import Content
from textual.events import Resize
from textual.widgets import OptionList
from textual.widgets.option_list import Option

from inference.gguf_header import GGUFHeader

from ..hub import size_text
from ..text import harmless
from .empty_state import short_count

GAP = 2
NAME_CELLS, MAX_NAME_CELLS = 20, 44
FIT_COLOURS = {"yes": "$success", "tight": "$warning", "no": "$error"}


@dataclass(frozen=True)
class ModelRow:
    """A file: its header, or the sentence that says why it has none; and whether it fits: yes, tight, no or unknown."""

    path: Path
    header: GGUFHeader | None = None
    problem: str = ""
    fits: str = ""
    current: bool = False

    @property
    def name(self) -> str:
        """What it is called."""
        return _line(self.header.name if self.header is not None else self.path.name)

    def matches(self, words: Iterable[str]) -> bool:
        """Whether each of the words, in lower case, is somewhere in its name, path, kind or quantization."""
        header = self.header
        facts = f"{self.path} {header.name} {header.architecture} {header.quantization}" if header else f"{self.path}"
        return all(word in facts.lower() for word in words)


@dataclass(frozen=True)
class Column:
    """A column: its head, its width, and what stands in it; `right` sets it to the right."""

    head: str
    cells: int
    text: Callable[[ModelRow], str]
    right: bool = False


def _fact(read: Callable[[GGUFHeader], str]) -> Callable[[ModelRow], str]:
    return lambda row: read(row.header) if row.header is not None else ""


FITS = Column("fits", 5, lambda row: row.fits)
# What comes after the name, the most important first.
COLUMNS = (
    Column("size", 7, _fact(lambda header: size_text(header.size_bytes)), right=True),
    Column("quant", 8, _fact(lambda header: _line(header.quantization))),
    Column("params", 6, _fact(lambda header: count_text(header.parameters)), right=True),
    Column("context", 9, _fact(lambda header: f"{header.context_length:,}" if header.context_length else "?"), True),
    Column("template", 8, _fact(lambda header: "own" if header.chat_template else "none")),
)
FOLDER_CELLS = 18


class ModelTable(OptionList):
    """The rows; `head` is given the line that stands above them."""

    def __init__(self, head: Callable[[Content], None]) -> None:
        super().__init__(id="model-table", markup=False, compact=True)
        self._head = head
        self._rows: list[ModelRow] = []
        self._drawn = 0

    def show(self, rows: Iterable[ModelRow], keep: Path | None = None) -> None:
        """Show these rows, with the one of the path `keep` highlighted, or else the first."""
        self._rows = list(rows)
        self._draw(keep)

    @property
    def row(self) -> ModelRow | None:
        """The highlighted row."""
        at = self.highlighted
        return self._rows[at] if at is not None and at < len(self._rows) else None

    def on_resize(self, event: Resize) -> None:
        """Draw other columns where there is other room."""
        if self.scrollable_content_region.width != self._drawn:
            self._draw(self.row.path if self.row is not None else None)

    def _draw(self, keep: Path | None) -> None:
        width = self._drawn = self.scrollable_content_region.width
        if not width:
            return
        name, columns, folder = _layout(width)
        heads = [Content(column.head.rjust(column.cells) if column.right else fill(column.head, column.cells))
                 for column in columns]  # fmt: skip
        self._head(Content(" " * GAP).join([Content(fill("name", name)), *heads, *[Content("folder")] * bool(folder)]))
        options = [Option(_draw_row(row, width, name, columns, folder)) for row in self._rows]
        with self.prevent(OptionList.OptionHighlighted):
            self.set_options(options)
        if self._rows:
            places = [number for number, row in enumerate(self._rows) if row.path == keep]
            self.highlighted = places[0] if places else 0


def _layout(width: int) -> tuple[int, list[Column], int]:
    """Return the cells for the name, the columns after it, and the cells for the folder, 0 where there are none."""
    columns, used = [FITS], FITS.cells + GAP
    for column in COLUMNS:
        if used + column.cells + GAP + NAME_CELLS > width:
            break
        columns.insert(len(columns) - 1, column)
        used += column.cells + GAP
    left = width - used
    if len(columns) <= len(COLUMNS) or left < NAME_CELLS + GAP + FOLDER_CELLS:
        return left, columns, 0
    name = min(MAX_NAME_CELLS, max(NAME_CELLS, left // 2))
    return name, columns, left - name - GAP


def _draw_row(row: ModelRow, width: int, name: int, columns: list[Column], folder: int) -> Content:
    sign = "● " if row.current else ""
    title = Content.assemble((sign, "$success"), (fill(row.name, name - len(sign)), "bold" if row.current else ""))
    if row.header is None:
        problem = _line(row.problem.replace(str(row.path), "it", 1))
        return Content.assemble(title, " " * GAP, (cut(problem, width - name - GAP), "$error"))
    parts = [title]
    for column in columns:
        text = cut(column.text(row), column.cells)
        text = text.rjust(column.cells) if column.right else fill(text, column.cells)
        parts.append(Content.styled(text, FIT_COLOURS.get(row.fits, "") if column is FITS else "$foreground-muted"))
    if folder:
        parts.append(Content.styled(short_path(row.path.parent, folder), "$foreground-muted"))
    return Content(" " * GAP).join(parts)


def count_text(count: int) -> str:
    """Return a number of parameters as people read it."""
    return short_count(count, ("", "k", "M", "B", "T"))


def short_path(path: Path, cells: int) -> str:
    """Return the end of a path that has room in so many cells, with ~ for the user's own folder."""
    home = os.path.expanduser("~")  # noqa: PTH111 (never raises)
    text = _line(str(path))
    text = "~" + text[len(home) :] if text == home or text.startswith(home + os.sep) else text
    return text if Content(text).cell_length <= cells else "…" + _end(text, cells - 1)


def _end(text: str, cells: int) -> str:
    while text and Content(text).cell_length > cells:
        text = text[1:]
    return text


def cut(text: str, cells: int) -> str:
    """Return the text, cut where it has more cells."""
    return Content(text).truncate(max(cells, 0), ellipsis=True).plain


def fill(text: str, cells: int) -> str:
    """Return the text in exactly so many cells."""
    return Content(text).truncate(max(cells, 0), ellipsis=True, pad=True).plain


def _line(text: str) -> str:
    return " ".join(harmless(text).split())
