"""Chats into a file."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from inference.errors import InputError

from ..store import Store, WholeChat
from . import json_lines, markdown, sharegpt

FORMS = ("markdown", "jsonl", "sharegpt", "sharegpt-branches")
PAGE = 500  # chats that are asked of the store at once


def export_chats(store: Store, chat_ids: Sequence[int] | None, form: str, path: Path) -> int:
    """Write the chats to the file at `path` and return how many; None stands for all that are not deleted.

    "markdown" is to be read by people; "jsonl" holds everything, and `import_file` makes the same chats of it again;
    "sharegpt" has the branch that is shown of each chat, "sharegpt-branches" every branch as a conversation of its own,
    both as one array where the file is named .json, else one conversation a line. The file appears whole or not at all,
    and takes the place of one that was there.

    Raises:
        InputError: there is no such form, or the file cannot be written.
        StoreError: a chat is not there, or cannot be read.
    """
    if form not in FORMS:
        raise InputError(f"no form to export is called {form!r}: choose one of {', '.join(FORMS)}")
    numbers = _all(store) if chat_ids is None else list(chat_ids)
    pieces = _pieces((store.take(number) for number in numbers), form, as_array=path.suffix.lower() == ".json")
    try:
        _write_whole(pieces, path)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from error
    return len(numbers)


def _all(store: Store) -> list[int]:
    numbers: list[int] = []
    while page := store.chats(PAGE, len(numbers)):
        numbers += [chat.id for chat in page]
    return numbers


def _pieces(chats: Iterator[WholeChat], form: str, as_array: bool) -> Iterator[str]:
    if form == "markdown":
        for number, chat in enumerate(chats):
            yield ("\n---\n\n" if number else "") + markdown.to_text(chat)
    elif form == "jsonl":
        yield from (json_lines.to_line(chat) + "\n" for chat in chats)
    else:
        lines = (line for chat in chats for line in sharegpt.to_lines(chat, branches=form == "sharegpt-branches"))
        if not as_array:
            yield from (line + "\n" for line in lines)
            return
        yield "["
        for number, line in enumerate(lines):
            yield (",\n" if number else "\n") + line
        yield "\n]\n"


def _write_whole(pieces: Iterator[str], path: Path) -> None:
    """Write the file under another name and rename it; half a character, which no encoding has, as JSON's escape."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with unfinished.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
            file.writelines(pieces)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
