"""Blocks as lines of a given width.

Every style is a list of names with spaces between them, the outer ones first, such as "quote strong link"; what they
look like is not decided here.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from .blocks import Block, Code, Heading, Item, ListBlock, Paragraph, Quote, Rule, Run, Runs, Table
from .cells import Span, cells, chop, wrap

if TYPE_CHECKING:
    from .code import LineColourer

TAB = 4
# Where less than this is left, quotes and lists are not indented any further.
MIN_WIDTH = 16
# A table whose columns would be narrower than this is shown as one record a row.
MIN_COLUMN = 6
LONG_WORD = 18  # cells; columns are made at least as wide as their longest word, but not wider than this for it
SEPARATOR = " │ "
QUOTE_BAR = "▎ "
GOES_ON = "↪ "


class Action(NamedTuple):
    """What a click on a part of a line does; `start` and `end` are cells."""

    name: str
    value: int
    start: int = 0
    end: int = 10_000


@dataclass(slots=True)
class Line:
    """One line of the screen.

    The first `lead` characters are decoration, which nobody wants to copy. `glue` is as in `cells.Span`: None where the
    line begins a new one in the text, else what belongs between it and the line before. `fill` is the style of the
    cells behind the text. `strip` is for whoever draws: the line as it was drawn last.
    """

    pieces: Runs
    lead: int = 0
    glue: str | None = None
    fill: str = ""
    actions: tuple[Action, ...] = ()
    strip: Any = field(default=None, compare=False, repr=False)

    @property
    def text(self) -> str:
        """The characters of the line."""
        return "".join(piece.text for piece in self.pieces)


def lay_out(blocks: Iterable[Block], width: int, base: str = "") -> list[Line]:
    """Return the lines of the blocks, with an empty one wherever there should be air."""
    lines: list[Line] = []
    previous: Block | None = None
    for block in blocks:
        if needs_gap(previous, block):
            lines.append(Line([]))
        lines += lay_out_block(block, width, base)
        previous = block
    return lines


def needs_gap(previous: Block | None, block: Block) -> bool:
    """Return whether an empty line belongs between two blocks: where the writer left one, and around boxes."""
    if previous is None:
        return False
    return block.gap or isinstance(block, Heading | _BOXES) or isinstance(previous, _BOXES)


_BOXES = Code | Table | Rule | Quote


def lay_out_block(block: Block, width: int, base: str = "") -> list[Line]:
    """Return the lines of one block."""
    if isinstance(block, Paragraph):
        return flow(block.runs, width, base)
    if isinstance(block, Heading):
        return flow(block.runs, width, _join(base, f"heading heading-{min(block.level, 4)}"))
    if isinstance(block, Rule):
        return [Line([Run("─" * width, _join(base, "rule"))])]
    if isinstance(block, Quote):
        inner = width - cells(QUOTE_BAR)
        if inner < MIN_WIDTH:
            return lay_out(block.blocks, width, _join(base, "quote"))
        bar = Run(QUOTE_BAR, _join(base, "quote-bar"))
        return [_prefixed(line, bar, decoration=True) for line in lay_out(block.blocks, inner, _join(base, "quote"))]
    growing = growing_lines(block, width, base)
    growing.grow(block, len(growing.children(block)), final=True)
    return growing.lines


def flow(runs: Runs, width: int, base: str = "") -> list[Line]:
    """Return running text in lines."""
    text = "".join(run.text for run in runs)
    return [Line(pieces, glue=span.glue) for span, pieces in _cut(runs, wrap(text, width), base)]


def _cut(runs: Runs, spans: Sequence[Span], base: str) -> Iterable[tuple[Span, Runs]]:
    """Yield each span with its part of the runs."""
    at, index = 0, 0  # where runs[index] begins
    for span in spans:
        while index < len(runs) and at + len(runs[index].text) <= span.start:
            at += len(runs[index].text)
            index += 1
        pieces: Runs = []
        begin, look = at, index
        while look < len(runs) and begin < span.end:
            text, style = runs[look]
            if part := text[max(0, span.start - begin) : span.end - begin]:
                pieces.append(Run(part, _join(base, style)))
            begin += len(text)
            look += 1
        yield span, pieces


def _join(outer: str, inner: str) -> str:
    return f"{outer} {inner}" if outer and inner else outer or inner


def _prefixed(line: Line, prefix: Run, *, decoration: bool) -> Line:
    counts = decoration or line.glue is not None or line.lead
    return Line(
        [prefix, *line.pieces],
        line.lead + len(prefix.text) if counts else 0,
        line.glue,
        line.fill,
        tuple(
            action._replace(start=action.start + cells(prefix.text), end=action.end + cells(prefix.text))
            for action in line.actions
        ),
    )


# ---- blocks that grow while they are written


class ListLines:
    """The lines of a list. Items that are settled are laid out once."""

    def __init__(self, width: int, base: str) -> None:
        self.lines: list[Line] = []
        self._width, self._base = width, base
        self._items = self._settled = 0

    @staticmethod
    def children(block: ListBlock) -> list[Item]:
        """Return what the list grows by."""
        return block.items

    def grow(self, block: ListBlock, settled: int, *, final: bool) -> None:
        """Bring the lines up to date with the list, whose first `settled` items will not change any more."""
        del self.lines[self._settled :]
        for index in range(self._items, len(block.items)):
            item = block.items[index]
            if index and item.gap:
                self.lines.append(Line([]))
            self.lines += _item_lines(item, self._width, self._base)
            if index < settled:
                self._items, self._settled = index + 1, len(self.lines)


def _item_lines(item: Item, width: int, base: str) -> list[Line]:
    marker = item.marker.rjust(3 if item.marker[0].isdecimal() else 2) + " "
    if item.done is not None:
        marker = " ☑ " if item.done else " ☐ "
    style = _join(base, "bullet")
    inner = width - cells(marker)
    if inner < MIN_WIDTH:
        inner, rest = width, Run("")
        lines = [Line([Run(marker.strip(), style)])]
        first = rest
    else:
        lines, first, rest = [], Run(marker, style), Run(" " * cells(marker), base)
    done = _join(base, "done") if item.done else base
    inside = lay_out(item.blocks, inner, done) or [Line([])]
    if isinstance(item.blocks[0] if item.blocks else None, Code | Table) and first.text:
        lines.append(Line([first]))
        first = rest
    for index, line in enumerate(inside):
        prefix = rest if index else first
        lines.append(_prefixed(line, prefix, decoration=False) if prefix.text and (line.pieces or not index) else line)
    return lines


class CodeLines:
    """The lines of a code block: a header with the language and the number, then the code in colour.

    While the block is open, each line is coloured once and by itself; in the end all are coloured together.
    """

    def __init__(self, width: int, base: str) -> None:
        self.lines: list[Line] = []
        self._width, self._base = width, base
        self._colourer: LineColourer | None = None
        self._coloured = self._settled = 0  # source lines, and lines of the screen up to there
        self._final = -1  # how many source lines were coloured together

    @staticmethod
    def children(block: Code) -> list[str]:
        """Return what the block grows by."""
        return block.lines

    def grow(self, block: Code, settled: int, *, final: bool) -> None:
        """Bring the lines up to date with the block, whose first `settled` lines will not change any more."""
        if self._final == len(block.lines):
            return
        from .code import LineColourer, coloured  # with Pygments, which the first frame does not need

        if final:
            self._final = len(block.lines)
            self.lines = _code_header(block, self._width, self._base)
            for runs in coloured(block.lines, block.language):
                self.lines += self._wrapped(runs)
            return
        if self._colourer is None:
            self._colourer = LineColourer(block.language)
            self.lines = _code_header(block, self._width, self._base)
            self._settled = len(self.lines)
        del self.lines[self._settled :]
        for index in range(self._coloured, len(block.lines)):
            runs = self._colourer.colour(block.lines[index], complete=index < settled)
            self.lines += self._wrapped(runs)
            if index < settled:
                self._coloured, self._settled = index + 1, len(self.lines)

    def _wrapped(self, runs: Runs) -> list[Line]:
        """Return a line of code in lines of the screen. All of it can be seen: what does not fit goes on below."""
        fence = _join(self._base, "fence")
        margin = Run(" ", fence)
        room = max(self._width - 2, 1)
        first, *more = chop("".join(run.text for run in runs), room - cells(GOES_ON), first=room)
        spans, at = [Span(0, len(first), None)], len(first)
        for piece in more:
            spans.append(Span(at, at + len(piece), ""))
            at += len(piece)
        lines = []
        for span, pieces in _cut(runs, spans, fence):
            lead = [margin] if span.glue is None else [margin, Run(GOES_ON, _join(fence, "goes-on"))]
            lines.append(Line([*lead, *pieces], sum(len(run.text) for run in lead), span.glue, fence))
        return lines


def _code_header(block: Code, width: int, base: str) -> list[Line]:
    """Return the line above a code block, and more where what stands behind the fence is long."""
    style = _join(base, "fence fence-head")
    number = f"[{block.number}]"
    room = max(1, width - len(number) - 3)
    info, *more = chop(block.info.expandtabs(TAB), room)
    space = max(1, width - 2 - cells(info) - len(number))
    pieces = [Run(f" {info}" + " " * space, style), Run(number, _join(style, "fence-number")), Run(" ", style)]
    actions = (Action("copy", block.number),)
    lines = [Line(pieces, sum(len(piece.text) for piece in pieces), None, style, actions)]
    return lines + [Line([Run(f" {info}", style)], len(info) + 1, "", style, actions) for info in more]


class TableLines:
    """The lines of a table. Rows that are settled are laid out once, unless a column has to become wider."""

    def __init__(self, width: int, base: str) -> None:
        self.lines: list[Line] = []
        self._width, self._base = width, base
        self._widths: list[int] | None = None
        self._needs: list[tuple[int, int]] = []  # of the header and the settled rows, for each column
        self._measured = 0  # rows in `_needs`
        self._rows = self._settled = 0

    @staticmethod
    def children(block: Table) -> list[list[Runs]]:
        """Return what the table grows by."""
        return block.rows

    def grow(self, block: Table, settled: int, *, final: bool) -> None:
        """Bring the lines up to date with the table, whose first `settled` rows will not change any more."""
        if not self._needs:
            self._needs = _needs([(0, 0)] * len(block.header), block.header)
        for row in block.rows[self._measured : settled]:
            self._needs = _needs(self._needs, row)
        self._measured = max(self._measured, settled)
        needs = self._needs
        for row in block.rows[self._measured :]:
            needs = _needs(needs, row)
        widths = column_widths(needs, self._width)
        if widths != self._widths or not self.lines:
            self._widths, self._rows = widths, 0
            self.lines = self._header(block)
            self._settled = len(self.lines)
        del self.lines[self._settled :]
        for index in range(self._rows, len(block.rows)):
            self.lines += self._row(block, index)
            if index < settled:
                self._rows, self._settled = index + 1, len(self.lines)

    def _header(self, block: Table) -> list[Line]:
        if not self._widths:
            return [] if block.rows else [Line([Run(_plain(cell), self._style("table-head"))]) for cell in block.header]
        cross = "─┼─".join("─" * width for width in self._widths)
        return [
            *_row_lines(block.header, block.aligns, self._widths, self._style("table-head"), self._style("table-line")),
            Line([Run(cross, self._style("table-line"))], len(cross)),
        ]

    def _row(self, block: Table, index: int) -> list[Line]:
        row = block.rows[index]
        if self._widths:
            return _row_lines(row, block.aligns, self._widths, self._base, self._style("table-line"))
        lines = [Line([])] if index else []
        for title, cell in zip(block.header, row, strict=True):
            name = [Run(f"{_plain(title)}: ", "table-head")] if title else []
            lines += flow([*name, *cell], self._width, self._base)
        return lines

    def _style(self, name: str) -> str:
        return _join(self._base, name)


GrowingLines = ListLines | CodeLines | TableLines


def growing_lines(block: ListBlock | Code | Table, width: int, base: str = "") -> GrowingLines:
    """Return what lays out such a block while it grows."""
    if isinstance(block, ListBlock):
        return ListLines(width, base)
    return CodeLines(width, base) if isinstance(block, Code) else TableLines(width, base)


def _plain(runs: Runs) -> str:
    return "".join(run.text for run in runs).replace("\n", " ")


def _needs(needs: list[tuple[int, int]], row: list[Runs]) -> list[tuple[int, int]]:
    """Return the widths that the columns would like to have, and those of their longest words, with one more row."""
    result = []
    for (wanted, word), runs in zip(needs, row, strict=True):
        text = "".join(run.text for run in runs)
        for line in text.split("\n"):
            wanted = max(wanted, cells(line))
        for part in text.split():
            word = max(word, cells(part))
        result.append((wanted, word))
    return result


def column_widths(needs: list[tuple[int, int]], width: int) -> list[int] | None:
    """Return the widths of the columns of a table of `width` cells; None where they would be too narrow to read.

    `needs` has, for each column, the width that it would like to have and the width of its longest word.
    """
    room = width - cells(SEPARATOR) * (len(needs) - 1)
    wanted = [max(1, want) for want, _ in needs]
    if sum(wanted) <= room:
        return wanted
    least = [min(want, max(MIN_COLUMN, min(word, LONG_WORD))) for want, (_, word) in zip(wanted, needs, strict=True)]
    if sum(least) > room:
        least = [min(want, MIN_COLUMN) for want in wanted]
    if sum(least) > room:
        return None
    # The widest columns give way first: find the limit under which all of them fit, then hand out what is left.
    low, high = 1, max(wanted)
    while low < high:
        limit = (low + high + 1) // 2
        if sum(max(few, min(want, limit)) for few, want in zip(least, wanted, strict=True)) <= room:
            low = limit
        else:
            high = limit - 1
    widths = [max(few, min(want, low)) for few, want in zip(least, wanted, strict=True)]
    for index, want in enumerate(wanted):
        if sum(widths) < room and widths[index] < want:
            widths[index] += 1
    return widths


def _row_lines(row: list[Runs], aligns: list[str], widths: list[int], base: str, between: str) -> list[Line]:
    columns = []
    for runs, width in zip(row, widths, strict=True):
        text = "".join(run.text for run in runs)
        columns.append([pieces for _, pieces in _cut(runs, wrap(text, width), base)])
    lines = []
    for index in range(max(map(len, columns))):
        pieces: Runs = []
        for column, (parts, width, align) in enumerate(zip(columns, widths, aligns, strict=True)):
            if column:
                pieces.append(Run(SEPARATOR, between))
            content = parts[index] if index < len(parts) else []
            space = max(0, width - sum(cells(piece.text) for piece in content))
            left = space if align == "right" else space // 2 if align == "center" else 0
            right = space - left if column < len(widths) - 1 else 0
            pieces += [Run(" " * left, base)] if left else []
            pieces += content
            pieces += [Run(" " * right, base)] if right else []
        lines.append(Line(pieces))
    return lines
