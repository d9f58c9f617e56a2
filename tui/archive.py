"""The chats on the command line, without a model: --chat lists them, --export and --import write and read files."""

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TextIO

from inference.errors import InputError

from .exchange import export_chats, import_file
from .plain_text import describe_chat
from .store import Store
from .text import harmless

PAGE = 1000
SHOWN_PROBLEMS = 20


def list_chats(store: Store, out: TextIO, err: TextIO) -> None:
    """Write a line for each chat, with the number by which it can be opened."""
    offset = 0
    while page := store.chats(PAGE, offset):
        offset += len(page)
        out.writelines(f"{harmless(describe_chat(chat))}\n" for chat in page)
    if not offset:
        err.write("there are no chats yet\n")


def export(store: Store, chat_id: int | None, form: str, target: str, out: TextIO, err: TextIO) -> None:
    """Write one chat, or all, in a form of the exchange to the file `target`; "-" is `out`.

    Raises:
        InputError: there is no such form, or the file cannot be written.
        StoreError: there is no such chat, or it cannot be read.
    """
    chats = [chat_id] if chat_id is not None else None
    if target == "-":
        with TemporaryDirectory() as folder:
            file = Path(folder) / "export"
            export_chats(store, chats, form, file)
            with file.open("rb") as source:
                shutil.copyfileobj(source, out.buffer)
    else:
        count = export_chats(store, chats, form, Path(target).expanduser())
        err.write(f"{_counted(count, 'chat')} written to {harmless(target)}\n")


def read_in(store: Store, file: Path, err: TextIO) -> None:
    """Put the chats of the file into the store, and say what came of it.

    Raises:
        InputError: the file holds no chats, or the store cannot be written.
        StoreError: writing failed; the chats before are in it.
    """
    if store.read_only:
        raise InputError(store.notice or "the store is read-only, so nothing can be imported into it")
    result = import_file(store, file)
    err.writelines(f"left out: {harmless(problem)}\n" for problem in result.skipped[:SHOWN_PROBLEMS])
    if len(result.skipped) > SHOWN_PROBLEMS:
        err.write(f"left out: {len(result.skipped) - SHOWN_PROBLEMS} more\n")
    known = f"; {_counted(result.known, 'chat')} had been there already" if result.known else ""
    err.write(f"{_counted(result.chats, 'chat')} with {_counted(result.messages, 'message')} imported{known}\n")


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
