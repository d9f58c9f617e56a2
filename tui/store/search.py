"""Search as one types, over everything said and all titles."""

import re
import sqlite3
import unicodedata

from .records import HIT, HIT_END, Hit, from_column

# Scripts that are written without spaces between words: each character is a word of its own, and a longer word is
# found as these characters in a row.
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u2fdf\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf"
    "\u4e00-\u9fff\uf900-\ufaff\U0001b000-\U0001b16f\U00020000-\U0003ffff]"
)
_SURROGATES = re.compile("[\ud800-\udfff\x00]")
BEFORE, AFTER = 30, 90  # characters of a snippet around the first match


def words(value: str | bytes | None) -> str:
    """Return the text as the index shall see it: the SQL function of that name."""
    text = from_column(value)
    if text.isascii():
        return text.replace("\x00", " ")
    return _UNSPACED.sub(r" \g<0> ", _SURROGATES.sub(" ", text))


def query(text: str) -> str:
    """Return the FTS5 query for what was typed: all words, the last one as a beginning; "" where there are none."""
    parts = ['"' + part.replace('"', '""') + '"' for part in _typed(text)]
    if not parts:
        return ""
    return " ".join(parts) + ("" if text[-1:].isspace() else "*")


def find(connection: sqlite3.Connection, text: str, limit: int) -> list[Hit]:
    """Return the places where all words of the text are said, the best first."""
    asked = query(text)
    if not asked:
        return []
    rows = connection.execute(
        "SELECT rowid FROM search_index WHERE search_index MATCH ? ORDER BY rank LIMIT ?", (asked, limit)
    ).fetchall()
    marks = _marker(text)
    hits = []
    for (number,) in rows:
        if number > 0:
            row = connection.execute(
                "SELECT chat_id, title, content, role, messages.created FROM messages JOIN chats "
                "ON chats.id = chat_id WHERE messages.id = ? AND deleted IS NULL",
                (number,),
            ).fetchone()
            if row:
                hits.append(Hit(row[0], number, from_column(row[1]), snippet(from_column(row[2]), marks), *row[3:]))
        else:
            row = connection.execute(
                "SELECT title, updated FROM chats WHERE id = ? AND deleted IS NULL", (-number,)
            ).fetchone()
            if row:
                title = from_column(row[0])
                hits.append(Hit(-number, None, title, snippet(title, marks), "", row[1]))
    return hits


def snippet(text: str, marks: re.Pattern) -> str:
    """Return the text around the first match on one line, each match between \\x02 and \\x03."""
    text = text.replace(HIT, " ").replace(HIT_END, " ")
    found = marks.search(text)
    begin = max(0, (found.start() if found else 0) - BEFORE)
    end = begin + BEFORE + AFTER
    cut = marks.sub(lambda match: f"{HIT}{match.group()}{HIT_END}", text[begin:end])
    return ("…" if begin else "") + " ".join(cut.split()) + ("…" if end < len(text) else "")


def _typed(text: str) -> list[str]:
    return [part for part in words(text).split() if any(unicodedata.category(c)[0] in "LN" for c in part)]


def _marker(text: str) -> re.Pattern:
    return re.compile("|".join(rf"(?<!\w){re.escape(part)}\w*" for part in _typed(text)), re.IGNORECASE)
