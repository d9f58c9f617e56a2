"""How wide text is in a terminal, and where it is broken into lines."""

import re
from collections.abc import Iterator
from typing import NamedTuple

from textual.content import Content

# A line may be broken beside any of these: CJK ideographs, kana, hangul and full-width forms. Closing punctuation
# stays with what it closes.
_WIDE = "[\u2e80-\u2fff\u3005-\u30ff\u3400-\u9fff\uac00-\ud7a3\uf900-\ufaff\uff01-\uff60\U00020000-\U0003ffff]"
_CLOSING = "[\u3001\u3002\u300d\u300f\u3011\uff01\uff09\uff0c\uff0e\uff1a\uff1b\uff1f]"
_UNIT = re.compile(rf"\n| +|{_WIDE}{_CLOSING}*|(?:(?!{_WIDE})[^ \n])+")
_JOINERS = "\u200d\ufe0f"


class Span(NamedTuple):
    """One line of a wrapped text, `text[start:end]`.

    `glue` is what stood between it and the line before where that line was merely full: a space or nothing. It is None
    where the text itself begins a new line.
    """

    start: int
    end: int
    glue: str | None


def cells(text: str) -> int:
    """Return how many cells of the terminal the text takes, by the tables that Textual uses."""
    return len(text) if text.isascii() else Content(text).cell_length


def clusters(text: str) -> Iterator[str]:
    """Yield the pieces that must not be torn apart: a character with its accents, an emoji with its joiners."""
    if text.isascii():
        yield from text
        return
    piece = ""
    for character in text:
        if piece and (character in _JOINERS or piece[-1] == "\u200d" or cells(character) == 0):
            piece += character
        else:
            if piece:
                yield piece
            piece = character
    if piece:
        yield piece


def chop(text: str, width: int, first: int | None = None) -> list[str]:
    """Return the text in pieces of at most `width` cells (the first of at most `first`), cut at any character.

    A character that is wider than `width` gets a piece of its own.
    """
    room = width if first is None else first
    if text.isascii():
        return [text[:room], *(text[at : at + width] for at in range(room, len(text), width))]
    pieces, piece, used = [], "", 0
    for cluster in clusters(text):
        size = cells(cluster)
        if used + size > room and (piece or room < width):
            pieces.append(piece)
            piece, used, room = "", 0, width
        piece += cluster
        used += size
    return [*pieces, piece]


def wrap(text: str, width: int) -> list[Span]:
    """Return the lines of at most `width` cells into which the text is broken, at spaces where there are any.

    The spaces at which a line is broken belong to no line. A word that is wider than a line is cut.
    """
    if len(text) <= width and "\n" not in text and text.isascii():
        return [Span(0, len(text), None)]
    spans: list[Span] = []
    start, end, used = 0, 0, 0  # the line so far: text[start:end], `used` cells wide
    glue: str | None = None
    spaces = 0
    for match in _UNIT.finditer(text):
        unit = match.group()
        if unit == "\n":
            spans.append(Span(start, end, glue))
            start = end = match.end()
            used = spaces = 0
            glue = None
            continue
        if unit[0] == " ":
            spaces = len(unit)
            continue
        size = cells(unit)
        if used + spaces + size <= width:
            end = match.end()
            used += spaces + size
            spaces = 0
            continue
        if end > start:
            spans.append(Span(start, end, glue))
            glue = " " if spaces else ""
        start = match.start()
        end, used, spaces = match.end(), size, 0
        if size > width:
            *full, last = chop(unit, width)
            for piece in full:
                spans.append(Span(start, start + len(piece), glue))
                start, glue = start + len(piece), ""
            used = cells(last)
    spans.append(Span(start, end, glue))
    return spans
