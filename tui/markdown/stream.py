"""Markdown that is still being written.

A block that is followed by another one cannot change any more: it is parsed and laid out once. Of a list, a table or
a code block at the end, the items, rows and lines that are complete stay as they are, too. So the work for the next
piece of a text does not depend on how much there is already.
"""

import re
from collections.abc import Iterable

from .blocks import Block, Code, Item, ListBlock, Paragraph, Quote, Run, Table
from .layout import GrowingLines, Line, growing_lines, lay_out_block, needs_gap
from .mend import mended
from .parse import Parsed, number, parse

# Characters of the unfinished end that are parsed again each time. Beyond that (one endless paragraph), it is parsed
# again only when it has grown by an eighth, and what is new is shown as plain text until then.
TAIL = 3_000

_FENCE = re.compile(r" {0,3}(?:`{3,}|~{3,})")
_UNFINISHED_FENCE = re.compile(r" {0,3}(?:`+|~+)$")


class Document:
    """A text in Markdown and its blocks, as far as it is known.

    `frozen` are the blocks that will not change any more, `tail` are those after them. The first `settled` items, rows
    or lines of the first block of the tail will not change either.
    """

    def __init__(self) -> None:
        self.frozen: list[Block] = []
        self.tail: list[Block] = []
        self.settled = 0
        self._source = ""  # what the tail was made of, without what is settled
        self._context = ""  # what has to stand before it: the header of a table, the opening of a fence
        self._codes = 0  # code blocks in what is frozen or settled, not counting the one that is open
        self._gap = self._item_gap = False  # whether there is an empty line before the tail, and before its open item
        self._parsed = 0  # characters of `_source` in `tail`
        self._finished = False

    @classmethod
    def whole(cls, text: str) -> "Document":
        """Return the document of a text that is complete."""
        document = cls()
        document.add(text)
        document.finish()
        return document

    def add(self, text: str) -> None:
        """Append to the text."""
        self._source += text

    def code_blocks(self) -> list[str]:
        """Return the sources of the code blocks, in the order of their numbers."""
        return [code.source for code in _codes([*self.frozen, *self.tail])]

    def update(self) -> None:
        """Bring the blocks up to date with the text."""
        if self._finished or len(self._source) == self._parsed:
            return
        if TAIL < len(self._source) < self._parsed + max(self._parsed // 8, TAIL // 8):
            self._add_plain()
        else:
            self._parse(final=False)

    def finish(self) -> None:
        """Bring the blocks up to date; the text is complete."""
        if not self._finished:
            self._parse(final=True)
            self._finished = True

    def _add_plain(self) -> None:
        if self.tail and isinstance(self.tail[-1], _Plain):
            self.tail.pop()
        self.tail.append(_Plain([Run(self._source[self._parsed :])]))

    def _parse(self, *, final: bool) -> None:
        source = self._context + self._source
        parsed = parse(source if final else mended(source), codes=self._codes)
        self._parsed = len(self._source)
        if self.settled:
            parsed[0] = parsed[0]._replace(block=self._grown(parsed[0].block))
        elif parsed and self._gap:
            parsed[0].block.gap = True
        if final:
            self.frozen += [found.block for found in parsed]
            self.tail, self.settled, self._source, self._parsed = [], 0, "", 0
            return
        complete = source.count("\n")
        done = 0
        while done + 1 < len(parsed) and _has_begun(parsed[done + 1], complete):
            done += 1
        if done:
            self.frozen += [found.block for found in parsed[:done]]
            self._codes += sum(1 for _ in _codes(found.block for found in parsed[:done]))
            self.settled, self._context = 0, ""
        self.tail = [found.block for found in parsed[done:]]
        if self.tail:
            self._gap = self.tail[0].gap
            self._settle(source.split("\n"), parsed[done], complete)
        if isinstance(self.tail[-1] if self.tail else None, Code):
            _hide_unfinished_fence(self.tail[-1], source)

    def _grown(self, new: Block) -> Block:
        """Return the open block with what was parsed of it behind what is settled."""
        block = self.tail[0]
        if isinstance(block, ListBlock) and isinstance(new, ListBlock):
            del block.items[self.settled :]
            for item in new.items:
                if item.marker[0].isdecimal():
                    item.marker = number(item.marker[:-1], item.marker[-1], block.items)
                block.items.append(item)
            block.items[self.settled].gap = self._item_gap
        elif isinstance(block, Table) and isinstance(new, Table):
            block.rows[self.settled :] = new.rows
        elif isinstance(block, Code) and isinstance(new, Code):
            block.lines[self.settled :] = new.lines
            block.closed = new.closed
        return block

    def _settle(self, lines: list[str], first: Parsed, complete: int) -> None:
        """Keep what is complete of the first block of the tail, and cut it off the source."""
        block, before = first.block, self.settled
        cut = first.start
        context = ""
        if isinstance(block, ListBlock):
            ready = sum(start < complete for start in first.parts[1:])
            cut = first.parts[ready]
            items = block.items[before : before + ready]
            self._codes += sum(1 for item in items for _ in _codes(item.blocks))
            self.settled = before + ready
            self._item_gap = block.items[self.settled].gap
        elif isinstance(block, Table) and first.start + 2 <= complete:
            ready = sum(start < complete for start in first.parts[1:])
            context = _joined(lines[first.start : first.start + 2])
            cut = first.start + 2 + ready
            self.settled = before + ready
        elif isinstance(block, Code) and first.start < complete and _FENCE.match(lines[first.start]):
            ready = min(len(block.lines) - before, complete - first.start - 1)
            context = _joined(lines[first.start : first.start + 1])
            cut = first.start + 1 + ready
            self.settled = before + ready
        if self.settled == 0:
            cut, context = first.start, ""
        self._source, self._context = "\n".join(lines[cut:]), context
        self._parsed = len(self._source)


class _Plain(Paragraph):
    """Text that has not been parsed yet."""


def _has_begun(found: Parsed, complete: int) -> bool:
    """Return whether a block is there for good, given how many lines of the source are complete.

    Its first line decides; only a table needs the second one, too.
    """
    return found.start + (2 if isinstance(found.block, Table) else 1) <= complete


def _joined(lines: list[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _hide_unfinished_fence(code: Code, source: str) -> None:
    """Leave out a last line that is about to become the closing fence."""
    if not code.closed and not source.endswith("\n") and code.lines and _UNFINISHED_FENCE.match(code.lines[-1]):
        code.lines.pop()


def _codes(blocks: Iterable[Block | Item]) -> Iterable[Code]:
    for block in blocks:
        if isinstance(block, Code):
            yield block
        elif isinstance(block, Quote | Item):
            yield from _codes(block.blocks)
        elif isinstance(block, ListBlock):
            yield from _codes(block.items)


class Page:
    """The lines of a document at a width."""

    def __init__(self, document: Document, width: int) -> None:
        self.document, self.width = document, width
        self.lines: list[Line] = []
        self._frozen = 0  # blocks, and lines of them
        self._frozen_lines = 0
        self._growing: GrowingLines | None = None
        self._last: Block | None = None
        self._tail: list[tuple[Block, list[Line]]] = []  # the blocks after those, as they were laid out last

    def update(self) -> int:
        """Bring the lines up to date with the document; return the index of the first one that is not as it was.

        Lines that did not change stay the same objects.
        """
        document = self.document
        changed = len(self.lines)
        growing, self._growing = self._growing, None
        for block in document.frozen[self._frozen :]:
            lines = [Line([])] if needs_gap(self._last, block) else []
            if growing is None:
                lines += lay_out_block(block, self.width)
            else:
                growing.grow(block, len(growing.children(block)), final=True)
                lines += growing.lines
                growing = None
            changed = min(changed, self._put(self._frozen_lines, lines))
            self._frozen_lines += len(lines)
            self._last = block
            self._frozen += 1
        lines, tail = [], []
        last = self._last
        for index, block in enumerate(document.tail):
            if needs_gap(last, block):
                lines.append(Line([]))
            if index == 0 and document.settled:
                growing = growing or growing_lines(block, self.width)
                growing.grow(block, document.settled, final=isinstance(block, Code) and block.closed)
                lines += growing.lines
                self._growing = growing
            else:
                known = next((lines for old, lines in self._tail if old is block), None)
                tail.append((block, known or lay_out_block(block, self.width)))
                lines += tail[-1][1]
            last = block
        self._tail = tail
        changed = min(changed, self._put(self._frozen_lines, lines))
        end = self._frozen_lines + len(lines)
        if len(self.lines) > end:
            del self.lines[end:]
            changed = min(changed, end)
        return changed

    def _put(self, at: int, lines: list[Line]) -> int:
        """Put the lines there, in the place of others; return the index of the first one that differs."""
        old = self.lines
        changed = len(old)
        for index, line in enumerate(lines, at):
            if index >= len(old):
                old.append(line)
                changed = min(changed, index)
            elif old[index] is not line:
                if old[index] == line:
                    lines[index - at] = old[index]
                else:
                    old[index] = line
                    changed = min(changed, index)
        return changed


def warm_up() -> None:
    """Load the parser and what colours code. Otherwise the model would wait for that in the middle of a reply."""
    Page(Document.whole("Text, *as* `usual`:\n\n- one\n\n```python\nx = 1\n```\n"), 80).update()
