"""Markdown into blocks, with nothing of the text swallowed.

It is GitHub's Markdown, with these differences: HTML, entities and link definitions are shown as they are written;
line breaks are kept; formulas between \\( \\), \\[ \\] or $$ are not touched; cells beyond a table's last column are
added to it; `<br>` breaks a line of a cell; what is nested too deeply is shown as plain text.
"""

import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import NamedTuple

from markdown_it import MarkdownIt
from markdown_it.rules_block import StateBlock, table
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token

from .blocks import Block, Code, Heading, Item, ListBlock, Paragraph, Quote, Rule, Run, Runs, Table

MAX_DEPTH = 16  # of quotes and lists in each other; markdown-it drops what is deeper than its own limit
BULLETS = ("•", "◦", "▪")

_LINE_BREAK = re.compile(r"<br\s*/?>", re.IGNORECASE)
_TASK = re.compile(r"\[([ xX])\](?:\s|$)")
_FORMULAS = {r"\(": r"\)", r"\[": r"\]", "$$": "$$"}
_STYLES = {"strong_open": "strong", "em_open": "em", "s_open": "strike"}
_PIPE = re.compile(r"(?<!\\)\|")


class Parsed(NamedTuple):
    """A top-level block and the lines of the source that it takes, `start` to `end`; `parts` are where its items or
    rows begin."""

    block: Block
    start: int
    end: int
    parts: list[int]


def parse(source: str, *, codes: int = 0) -> list[Parsed]:
    """Return the top-level blocks of the source; the first code block in it gets the number `codes` + 1."""
    return _Reader(source, codes).top_level()


# ---- the parser


@lru_cache(maxsize=1)
def _parser() -> MarkdownIt:
    parser = MarkdownIt("gfm-like", {"html": False, "maxNesting": 4 * MAX_DEPTH})
    parser.disable(["reference", "entity"])
    parser.block.ruler.before("table", "too_deep", _too_deep)
    parser.block.ruler.at("table", _whole_table, {"alt": ["paragraph", "reference"]})
    parser.inline.ruler.before("escape", "formula", _formula)
    # Addresses appear as they were written. Nobody follows them.
    parser.normalizeLink = parser.normalizeLinkText = lambda url: url  # type: ignore[method-assign]
    return parser


def _too_deep(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """Take the next lines as plain text where quotes and lists are too deep in each other."""
    if silent or state.level < 2 * MAX_DEPTH:
        return False
    line = start + 1
    while line < end and not state.isEmpty(line) and state.sCount[line] >= state.blkIndent:
        line += 1
    content = state.getLines(start, line, state.blkIndent, False).strip()
    state.line = line
    token = state.push("paragraph_open", "p", 1)
    token.map = [start, line]
    token = state.push("plain", "", 0)
    token.content = content
    state.push("paragraph_close", "p", -1)
    return True


def _whole_table(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """Parse a table and keep the cells beyond its last column, which GitHub's Markdown drops."""
    first = len(state.tokens)
    if not table(state, start, end, silent):
        return False
    if silent:
        return True
    columns = sum(token.type == "th_open" for token in state.tokens[first:])
    last: Token | None = None
    for token in state.tokens[first:]:
        if token.type == "inline":
            last = token
        elif token.type == "tr_close" and last is not None and last.map:
            line = last.map[0]
            text = state.src[state.bMarks[line] + state.tShift[line] : state.eMarks[line]].strip(" \t")
            cuts = [match.end() for match in _PIPE.finditer(text, 1)]
            if len(cuts) >= columns and text[cuts[columns - 1] :].strip():
                beyond = text[cuts[columns - 1] - 1 :].removesuffix("|").replace("\\|", "|")
                last.content = f"{last.content} {beyond.strip()}".strip()
    return True


def _formula(state: StateInline, silent: bool) -> bool:
    """Take a formula as it stands."""
    opening = state.src[state.pos : state.pos + 2]
    if opening not in _FORMULAS:
        return False
    end = state.src.find(_FORMULAS[opening], state.pos + 2, state.posMax)
    if end < 0:
        return False
    if not silent:
        state.push("formula", "", 0).content = state.src[state.pos : end + 2]
    state.pos = end + 2
    return True


# ---- tokens into blocks


class _Reader:
    """Walks over the tokens of one source."""

    def __init__(self, source: str, codes: int) -> None:
        self._lines = source.split("\n")
        self._codes = codes
        self._tokens = _parser().parse(source)
        self._at = 0

    def top_level(self) -> list[Parsed]:
        blocks = []
        while self._at < len(self._tokens):
            begin = self._at
            start, end = self._tokens[begin].map or (0, 0)
            block = self._block(0)
            if block is None:
                continue
            parts = []
            if isinstance(block, ListBlock | Table):
                wanted = "tr_open" if isinstance(block, Table) else "list_item_open"
                parts = [
                    token.map[0]
                    for token in self._tokens[begin : self._at]
                    if token.type == wanted and token.map and (wanted == "tr_open" or token.level == 1)
                ]
            blocks.append(Parsed(block, start, end, parts))
        return blocks

    def _next(self) -> Token:
        token = self._tokens[self._at]
        self._at += 1
        return token

    def _until(self, closing: str, read: Callable[[], Block | Item | None]) -> Iterable:
        while self._tokens[self._at].type != closing:
            if (block := read()) is not None:
                yield block
        self._at += 1

    def _blocks(self, closing: str, depth: int) -> list[Block]:
        blocks = list(self._until(closing, lambda: self._block(depth)))
        if blocks:
            blocks[0].gap = False
        return blocks

    def _block(self, depth: int) -> Block | None:
        token = self._next()
        gap = self._gap(token)
        if token.type == "paragraph_open":
            return Paragraph(self._inline("paragraph_close"), gap)
        if token.type == "heading_open":
            return Heading(int(token.tag[1:]), self._inline("heading_close"), gap)
        if token.type in ("fence", "code_block"):
            return self._code(token, gap)
        if token.type == "hr":
            return Rule(gap)
        if token.type == "blockquote_open":
            return Quote(self._blocks("blockquote_close", depth), gap)
        if token.type in ("bullet_list_open", "ordered_list_open"):
            return self._list(token.type.replace("open", "close"), depth, gap)
        if token.type == "table_open":
            return self._table(gap)
        return None

    def _gap(self, token: Token) -> bool:
        return bool(token.map and token.map[0] > 0 and not self._lines[token.map[0] - 1].strip(" \t>"))

    def _inline(self, closing: str) -> Runs:
        runs: Runs = []
        while (token := self._next()).type != closing:
            if token.type == "plain":
                runs.append(Run(token.content))
            elif token.type == "inline":
                runs += _runs(token.children or [])
        return runs

    def _code(self, token: Token, gap: bool) -> Code:
        lines = token.content.split("\n")
        if lines[-1] == "":
            lines.pop()
        start, end = token.map or (0, 0)
        # An open fence goes on to the end of the source, so there is no line left for what closes it.
        taken = end - start - 1 - (self._lines[-1] == "" and end == len(self._lines))
        closed = token.type == "code_block" or taken > len(lines)
        self._codes += 1
        return Code(self._codes, token.info.strip(), lines, closed, gap)

    def _list(self, closing: str, depth: int, gap: bool) -> ListBlock:
        items: list[Item] = []

        def read() -> None:
            token = self._next()
            item_gap = bool(items) and self._gap(token)
            marker = number(token.info, token.markup, items) if token.info else BULLETS[depth % len(BULLETS)]
            item = Item(marker, self._blocks("list_item_close", depth + 1), gap=item_gap)
            _find_task(item)
            items.append(item)

        list(self._until(closing, read))
        return ListBlock(items, gap)

    def _table(self, gap: bool) -> Table:
        found = Table([], [], gap=gap)
        row: list[Runs] = []
        while (token := self._next()).type != "table_close":
            if token.type == "th_open":
                found.aligns.append(str(token.attrs.get("style", "")).rpartition(":")[2])
            if token.type == "tr_open":
                row = []
            elif token.type == "inline":
                row.append(_runs(token.children or [], cell=True))
            elif token.type == "tr_close":
                if found.header:
                    found.rows.append(row)
                else:
                    found.header = row
        return found


def number(written: str, delimiter: str, before: list[Item]) -> str:
    """Return the marker of a numbered item: as it was written, unless the numbers do not rise (1. 1. 1.)."""
    shown = int(before[-1].marker[:-1]) if before and before[-1].marker[:-1].isdecimal() else -1
    return f"{max(int(written), shown + 1)}{delimiter}"


def _find_task(item: Item) -> None:
    """Turn the [x] at the beginning of an item into a check box."""
    if not (item.blocks and isinstance(item.blocks[0], Paragraph) and item.blocks[0].runs):
        return
    runs = item.blocks[0].runs
    if runs[0].style == "" and (box := _TASK.match(runs[0].text)):
        item.done = box[1] != " "
        runs[0] = Run(runs[0].text[box.end() :])


def _runs(tokens: list[Token], *, cell: bool = False) -> Runs:
    """Return inline tokens as runs."""
    runs: Runs = []
    styles: list[str] = []
    links: list[tuple[int, Token]] = []  # where in `runs` each open link begins

    def add(text: str, *extra: str) -> None:
        if text:
            style = " ".join([*dict.fromkeys(styles), *extra])
            if runs and runs[-1].style == style:
                runs[-1] = Run(runs[-1].text + text, style)
            else:
                runs.append(Run(text, style))

    def add_address(token: Token, address: str, text: str) -> None:
        title = token.attrs.get("title", "")
        if address not in (text, f"mailto:{text}", f"http://{text}") or title:
            add(f' ({address} "{title}")' if title else f" ({address})", "url")

    for token in tokens:
        kind = token.type
        if kind in ("softbreak", "hardbreak"):
            add("\n")
        elif kind == "code_inline":
            add(token.content, "code")
        elif kind == "formula":
            add(token.content, "formula")
        elif kind == "image":
            add(token.content, "image")
            add_address(token, str(token.attrs.get("src", "")), "")
        elif kind in _STYLES:
            styles.append(_STYLES[kind])
        elif kind == "link_open":
            links.append((len(runs), token))
            styles.append("link")
            # Never one run with what stands before the link: its text has to be told apart below.
            runs.append(Run("", "link-start"))
        elif kind == "link_close":
            start, opening = links.pop()
            del styles[len(styles) - 1 - styles[::-1].index("link")]
            text = "".join(run.text for run in runs[start:])
            add_address(opening, str(opening.attrs.get("href", "")), text)
        elif kind.endswith("_close"):
            name = _STYLES.get(kind.replace("_close", "_open"))
            if name in styles:
                del styles[len(styles) - 1 - styles[::-1].index(name)]
        else:
            add(_LINE_BREAK.sub("\n", token.content) if cell else token.content)
    return [run for run in runs if run.text]
