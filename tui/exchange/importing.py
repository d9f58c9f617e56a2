"""Chats out of a file that koala-tui, a training set or ChatGPT's export made."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from inference.errors import InputError

from ..store import Store, WholeChat
from . import chatgpt, json_lines, sharegpt
from .reading import records
from .record import Unusable

# A field that only records of this form have, and what makes a chat of them.
READERS: dict[str, Callable[[dict[str, Any]], WholeChat]] = {
    "koala_chat": json_lines.from_record,
    "mapping": chatgpt.from_record,
    "conversations": sharegpt.from_record,
    "messages": sharegpt.from_record,
}


@dataclass
class ImportResult:
    """What came of an import: how many chats and messages are new, and a sentence for each record that was left out.

    `known` counts the chats that were in the store already, and in which nothing was missing.
    """

    chats: int = 0
    messages: int = 0
    skipped: list[str] = field(default_factory=list)
    known: int = 0


def import_file(store: Store, path: Path, progress: Callable[[int], None] | None = None) -> ImportResult:
    """Put the chats in the file into the store, each whole or not at all, and go on after those that cannot be used.

    The file's form is told from its content. What is in the store already is not added again: of a chat that is known,
    only messages that are missing are. `progress` is called with the number of records done, after each.

    Raises:
        InputError: the file cannot be read, or there is nothing like a chat in it.
        StoreError: the store cannot be written; the chats before are in it.
    """
    result = ImportResult()
    found = 0
    for number, (where, record) in enumerate(records(path), 1):
        try:
            put = store.put(_chat(record))
        except Unusable as problem:
            result.skipped.append(f"{where}: {problem}")
        else:
            found += 1
            result.chats += bool(put.is_new or put.added)
            result.known += not (put.is_new or put.added)
            result.messages += put.added
        if progress:
            progress(number)
    if not found:
        raise InputError(f"{path} holds no chats: " + (result.skipped[0] if result.skipped else "it is an empty list"))
    return result


def _chat(record: Any) -> WholeChat:
    if isinstance(record, Unusable):
        raise record
    if not isinstance(record, dict):
        raise Unusable("it is no object")
    for name, reader in READERS.items():
        if name in record:
            return reader(record)
    names = ", ".join(repr(name) for name in list(record)[:8])
    raise Unusable(f"it is no chat of a known form; it has {names or 'no fields'}")
