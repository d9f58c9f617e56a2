"""The store: what the app says to it, in the app's words."""

import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import chats, messages, search, whole
from .database import Database
from .records import Chat, Hit, StoredMessage, to_column, to_json

SILENCE_SECONDS = 5.0


class Store:
    """All chats. Safe to use from several threads; every method is one transaction.

    Make one with `Store.open(path)`. Every method raises StoreError where the file cannot be read or written, or a chat
    or message is not there any more.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._data_version = self._read_data_version()

    @classmethod
    def open(cls, path: Path | None) -> "Store":
        """Open the store at `path`, making it where there is none; None keeps everything in memory.

        Raises:
            StoreError: it was written by a newer koala-tui, or cannot be opened.
        """
        return cls(Database(path))

    @property
    def notice(self) -> str | None:
        """What opening had to do or has to say, one sentence."""
        return self._database.notice

    @property
    def read_only(self) -> bool:
        """Whether nothing can be written."""
        return self._database.read_only

    def wait_at_most(self, seconds: float) -> None:
        """Raise StoreError where another program has the file to itself for longer than this; at first that is 10 s."""
        self._database.wait_at_most(seconds)

    def close(self) -> None:
        """Close the file. Closing twice is harmless."""
        self._database.close()

    def chats(self, limit: int = 200, offset: int = 0) -> list[Chat]:
        """Return the chats that are not deleted: the pinned ones first, then by the time of the last change."""
        return self._database.read(chats.listed, limit, offset)

    def chat(self, chat_id: int) -> Chat:
        """Return one chat, deleted or not."""
        return self._database.read(chats.one, chat_id)

    def create_chat(self, title: str = "", settings: dict[str, Any] | None = None) -> int:
        """Add an empty chat and return its id."""
        return self._database.write(chats.create, title, settings)

    def rename(self, chat_id: int, title: str) -> None:
        """Give the chat another title."""
        self._database.write(chats.change, chat_id, "title", to_column(title))

    def pin(self, chat_id: int, pinned: bool) -> None:
        """Keep the chat at the top of the list, or no longer."""
        self._database.write(chats.change, chat_id, "pinned", int(pinned))

    def delete(self, chat_id: int) -> None:
        """Take the chat out of the list and the search; `undelete` brings it back, `purge_deleted` ends it."""
        self._database.write(chats.change, chat_id, "deleted", time.time())

    def undelete(self, chat_id: int) -> None:
        """Bring a deleted chat back."""
        self._database.write(chats.change, chat_id, "deleted", None)

    def purge_deleted(self, before: float) -> int:
        """Remove for good the chats that were deleted before that time; return how many."""
        return self._database.write(chats.purge, before)

    def set_settings(self, chat_id: int, settings: dict[str, Any]) -> None:
        """Replace the chat's settings."""
        self._database.write(chats.change, chat_id, "settings", to_json(settings))

    def set_draft(self, chat_id: int, text: str) -> None:
        """Keep what was typed and not sent."""
        self._database.write(chats.change, chat_id, "draft", to_column(text))

    def path(self, chat_id: int) -> list[StoredMessage]:
        """Return the messages from the first one to the head, along the branch that is shown."""
        return self._database.read(messages.path, chat_id)

    def tree(self, chat_id: int) -> list[StoredMessage]:
        """Return all messages of the chat, parents before children."""
        return self._database.read(messages.tree, chat_id)

    def add_message(
        self,
        chat_id: int,
        parent_id: int | None,
        role: str,
        content: str,
        *,
        state: str = "complete",
        details: dict[str, Any] | None = None,
        durable: bool = False,
    ) -> int:
        """Add a message, make it the head, and return its id.

        A chat without a title gets one from a user's message. With `durable` the message is on the disk itself when
        this returns, and not only with the operating system.
        """
        return self._database.write(messages.add, chat_id, parent_id, role, content, state, details, durable=durable)

    def update_message(
        self,
        message_id: int,
        *,
        content: str | None = None,
        state: str | None = None,
        details: dict[str, Any] | None = None,
        durable: bool = False,
    ) -> None:
        """Replace what is given. While a reply is written: its text so far with the state "streaming"."""
        self._database.write(messages.update, message_id, content, state, details, durable=durable)

    def select(self, message_id: int) -> None:
        """Show the branch with this message: the newest leaf below it becomes the head."""
        self._database.write(messages.select, message_id)

    def sibling(self, message_id: int, step: int) -> int | None:
        """Return the id of the sibling `step` places further, None where there is none."""
        return self._database.read(messages.sibling, message_id, step)

    def set_head(self, chat_id: int, message_id: int | None) -> None:
        """Make the message the last one that is shown; None shows none."""
        self._database.write(messages.set_head, chat_id, message_id)

    def take_back(self, message_id: int) -> None:
        """Remove a message that nothing follows; where it was the head, its parent is, or else the newest message."""
        self._database.write(messages.take_back, message_id)

    def heartbeat(self, message_ids: Sequence[int]) -> None:
        """Say that these replies are still being written, though there is no new text; at least every two seconds."""
        if message_ids:
            self._database.write(messages.heartbeat, list(message_ids))

    def interrupted(self, silence: float = SILENCE_SECONDS) -> list[int]:
        """Turn replies whose writer gave no sign of life for so many seconds into partial ones; return their ids."""
        before = time.time() - silence
        if self.read_only or not self._database.read(messages.silent, before):
            return []
        return self._database.write(messages.interrupted, before)

    def search(self, text: str, limit: int = 50) -> list[Hit]:
        """Return where all words of the text were said, the best first; the last word may be only begun."""
        return self._database.read(search.find, text, limit)

    def history(self, limit: int = 200) -> list[str]:
        """Return what users wrote, newest first, each text once."""
        return self._database.read(messages.history, limit)

    def take(self, chat_id: int) -> whole.WholeChat:
        """Return a chat with all its branches, apart from the store: what an export writes."""
        return self._database.read(whole.take, chat_id)

    def put(self, chat: whole.WholeChat) -> whole.Put:
        """Add a chat from elsewhere; of one that is known already (by its uid), the messages that are missing."""
        return self._database.write(whole.put, chat)

    def changed(self) -> bool:
        """Return whether another program has written since the last call."""
        replaced = self._database.replaced()
        before, self._data_version = self._data_version, self._read_data_version()
        return replaced or before != self._data_version

    def _read_data_version(self) -> int:
        return self._database.read(_data_version)


def _data_version(connection: sqlite3.Connection) -> int:
    return connection.execute("PRAGMA data_version").fetchone()[0]
