"""Search as one types, over everything said and all titles.

What was typed becomes an FTS5 query that is never a syntax error. Where thousands of places match, the newest are
looked at: telling how well each one matches would take longer than a keystroke, and nobody reads past the first page.
"""

import re
import sqlite3
import time
import unicodedata

from .records import HIT, HIT_END, Hit, from_column, to_column

# Scripts that are written without spaces between words: each character is a word of its own, and a longer word is
# found as these characters in a row.
UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u2fdf\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf"
    "\u4e00-\u9fff\uf900-\ufaff\U0001b000-\U0001b16f\U00020000-\U0003ffff"
)
NEWEST = 1_000  # matches that are compared
NEWEST_UNINDEXED = 20_000  # messages that are looked through for what has no words, such as "->"
RECENT_SECONDS = 30 * 86_400.0  # what is as old as this counts half as recent as what was said just now
LEAST_RELEVANCE = 0.1  # so that among words that are everywhere the newest come first
BEFORE, LENGTH = 40, 120  # characters of a snippet: before the first match, and in all
SCANNED = 200_000  # characters of a message that are looked through for a snippet
TRIED = 20  # matches around which a snippet is tried

WORD_CATEGORIES = {"Lu", "Ll", "Lt", "Lm", "Lo", "Nd", "Nl", "No", "Co"}  # what is part of a word for FTS5
LETTER = f"[^\\W_{UNSPACED}]"

_EACH_UNSPACED = re.compile(f"[{UNSPACED}]")
_NO_TEXT = re.compile("[\x00\ud800-\udfff]")


def words(value: str | bytes | None) -> str:
    """Return the text as the index shall see it; this is the SQL function of that name."""
    text = _NO_TEXT.sub(" ", from_column(value))
    return text if text.isascii() else _EACH_UNSPACED.sub(r" \g<0> ", text)


def query(text: str) -> str:
    """Return the FTS5 query for what was typed: all its words, the last one as a beginning; "" where there are none.

    What is typed without a space between, such as "don't" or "os.path", is looked for as words in a row.
    """
    parts = [f'"{words(part)}"' for part in text.replace('"', " ").split() if _has_words(part)]
    return " ".join(parts) + ("*" if parts and not text[-1].isspace() else "")


def find(connection: sqlite3.Connection, text: str, limit: int) -> list[Hit]:
    """Return the places where all words of the text are said, the best first."""
    if asked := query(text):
        found = _best(connection, asked, limit)
    elif symbols := text.strip():
        found = _with_symbols(connection, symbols, limit)
    else:
        return []
    marks = _marks(text)
    return [_hit(connection, number, marks) for number in found]


def _best(connection: sqlite3.Connection, asked: str, limit: int) -> list[int]:
    """The rows of the index that match best, newer ones before equally good ones."""
    now = time.time()
    scored = []
    for statement in (
        "SELECT search_index.rowid, rank, messages.created FROM search_index "
        "CROSS JOIN messages ON messages.id = search_index.rowid CROSS JOIN chats ON chats.id = chat_id "
        "WHERE search_index MATCH ? AND search_index.rowid > 0 AND deleted IS NULL "
        "ORDER BY search_index.rowid DESC LIMIT ?",
        "SELECT search_index.rowid, rank, updated FROM search_index CROSS JOIN chats ON chats.id = -search_index.rowid "
        "WHERE search_index MATCH ? AND search_index.rowid < 0 AND deleted IS NULL "
        "ORDER BY search_index.rowid LIMIT ?",
    ):
        for number, rank, at in connection.execute(statement, (asked, NEWEST)):
            recency = 1 + RECENT_SECONDS / (RECENT_SECONDS + max(now - at, 0.0))
            scored.append(((LEAST_RELEVANCE - rank) * recency, number))
    return [number for _, number in sorted(scored, reverse=True)[:limit]]


def _with_symbols(connection: sqlite3.Connection, symbols: str, limit: int) -> list[int]:
    """The newest messages that hold the text as it is; what is no word is not in the index."""
    rows = connection.execute(
        "SELECT id FROM (SELECT messages.id, content FROM messages JOIN chats ON chats.id = chat_id "
        "WHERE deleted IS NULL ORDER BY messages.id DESC LIMIT ?) WHERE instr(content, ?) LIMIT ?",
        (NEWEST_UNINDEXED, to_column(symbols), limit),
    )
    return [number for (number,) in rows]


def _hit(connection: sqlite3.Connection, number: int, marks: re.Pattern) -> Hit:
    if number > 0:
        chat_id, title, content, role, created = connection.execute(
            "SELECT chat_id, title, content, role, messages.created FROM messages "
            "JOIN chats ON chats.id = chat_id WHERE messages.id = ?",
            (number,),
        ).fetchone()
        return Hit(chat_id, number, from_column(title), snippet(from_column(content), marks), role, created)
    title, updated = connection.execute("SELECT title, updated FROM chats WHERE id = ?", (-number,)).fetchone()
    return Hit(-number, None, from_column(title), snippet(from_column(title), marks), "", updated)


def snippet(text: str, marks: re.Pattern) -> str:
    """Return a line of the text in which most of what was looked for is, each match between \\x02 and \\x03."""
    text = unicodedata.normalize("NFC", text[:SCANNED]).replace(HIT, " ").replace(HIT_END, " ")
    spans = [match.span() for match in marks.finditer(_folded(text))]
    begin = _begin_of_snippet(text, spans)
    end = begin + LENGTH
    pieces, place = [], begin
    for first, last in spans:
        if begin <= first < end:
            pieces += [text[place:first], HIT, text[first:last], HIT_END]
            place = last
    pieces.append(text[place:end])
    line = " ".join("".join(pieces).split())
    return ("…" if begin else "") + line + ("…" if max(place, end) < len(text) else "")


def _begin_of_snippet(text: str, spans: list[tuple[int, int]]) -> int:
    """Where the snippet with the most different matches begins, at a word if one is near."""
    if not spans:
        return 0

    def different(begin: int) -> int:
        return len({text[first:last].lower() for first, last in spans if begin <= first < begin + LENGTH - BEFORE})

    first = max((span[0] for span in spans[:TRIED]), key=different)
    begin = max(0, first - BEFORE)
    if begin == 0:
        return 0
    return next((place + 1 for place in range(begin, first) if text[place].isspace()), begin)


def _has_words(text: str) -> bool:
    return any(unicodedata.category(character) in WORD_CATEGORIES for character in text)


def _marks(text: str) -> re.Pattern:
    """What finds in a folded text what was typed: whole words, but for the last one, which may be only begun."""
    text = _folded(unicodedata.normalize("NFC", text))
    word_or_character = re.compile(f"[{UNSPACED}]|{LETTER}+")
    parts = [word_or_character.findall(part) for part in text.split() if _has_words(part)]
    patterns = []
    for number, found in enumerate(parts, 1):
        begun = number == len(parts) and not text[-1].isspace()
        pieces = [
            re.escape(word)
            if _EACH_UNSPACED.match(word)
            else f"(?<!{LETTER}){re.escape(word)}"
            + (f"{LETTER}*" if begun and place == len(found) else f"(?!{LETTER})")
            for place, word in enumerate(found, 1)
        ]
        patterns.append(r"[\W_]*?".join(pieces))
    return re.compile("|".join(patterns) or re.escape(text.strip()))


class _Folding(dict[int, str]):
    """Each character without its accent and in lower case, always one for one."""

    def __missing__(self, code: int) -> str:
        plain = chr(code)
        if code < 0x2000:
            plain = unicodedata.normalize("NFD", plain)[0]
        folded = self[code] = plain.lower()[0]
        return folded


_FOLDING = _Folding()


def _folded(text: str) -> str:
    return text.lower() if text.isascii() else text.translate(_FOLDING)
