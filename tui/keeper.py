"""What is said goes into the store, and into memory while the store cannot be written, so that a chat never stops.

What is only in memory has negative ids. It is written as soon as that is possible again; `stored` then tells the ids.
"""

import itertools
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from .store import Chat, NotFoundError, Store, StoredMessage, StoreError
from .store.messages import title_from


@dataclass
class _Unsaved:
    """What of one chat is not in the store yet: the chat itself perhaps, or its values, new messages, and changes."""

    chat: Chat | None = None
    values: dict[str, Any] = field(default_factory=dict)
    messages: dict[int, StoredMessage] = field(default_factory=dict)
    changes: dict[int, dict[str, Any]] = field(default_factory=dict)
    head: int | None = None
    head_is_set: bool = False


class Keeper:
    """Writes to a store, and remembers what it could not write. Safe to use from several threads.

    `trouble` is the sentence that says why something is not in the store, None where everything is.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.trouble: str | None = None
        self._lock = threading.RLock()
        self._new_ids = itertools.count(-1, -1)
        self._unsaved: dict[int, _Unsaved] = {}
        self._stored: dict[int, int] = {}

    def stored(self, number: int) -> int:
        """Return the id under which a chat or message is known by now."""
        return self._stored.get(number, number)

    # ---- chats

    def chats(self, limit: int, offset: int = 0) -> list[Chat]:
        """Return a page of the chats; those that are not in the store come before the first."""
        with self._lock:
            unsaved = [] if offset else [each.chat for each in self._unsaved.values() if each.chat is not None]
            return unsaved[::-1] + [self._as_changed(chat) for chat in self.store.chats(limit, offset)]

    def chat(self, chat_id: int) -> Chat:
        """Return one chat.

        Raises:
            StoreError: there is none, or the store cannot be read.
        """
        with self._lock:
            unsaved = self._unsaved.get(self.stored(chat_id))
            if unsaved is not None and unsaved.chat is not None:
                return unsaved.chat
            return self._as_changed(self.store.chat(self.stored(chat_id)))

    def create_chat(self, settings: dict[str, Any]) -> int:
        """Add an empty chat and return its id."""
        with self._lock:
            try:
                return self.store.create_chat(settings=settings)
            except StoreError as error:
                self.trouble = str(error)
                number, now = next(self._new_ids), time.time()
                self._unsaved[number] = _Unsaved(Chat(number, "", now, now, False, settings, "", 0))
                return number

    def change_chat(self, chat_id: int, **values: Any) -> None:
        """Set title, draft, settings or pinned of a chat.

        Raises:
            NotFoundError: there is no such chat any more.
        """
        with self._lock:
            chat_id = self.stored(chat_id)
            if self._is_saved(chat_id):
                try:
                    self._change_chat(chat_id, values)
                    return
                except NotFoundError:
                    raise
                except StoreError as error:
                    self.trouble = str(error)
            unsaved = self._unsaved.setdefault(self.stored(chat_id), _Unsaved())
            if unsaved.chat is not None:
                unsaved.chat = replace(unsaved.chat, **values)
            else:
                unsaved.values |= values

    # ---- messages

    def path(self, chat_id: int) -> list[StoredMessage]:
        """Return the messages from the first one to the head.

        Raises:
            StoreError: the store cannot be read.
        """
        with self._lock:
            chat_id = self.stored(chat_id)
            if chat_id not in self._unsaved:
                return self.store.path(chat_id)
            nodes = self._nodes(chat_id)
            path = []
            message = nodes.get(self._head(chat_id))
            while message is not None:
                path.append(message)
                message = nodes.get(message.parent_id)
            return path[::-1]

    def add(
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
        """Add a message, make it the head, and return its id."""
        with self._lock:
            chat_id = self.stored(chat_id)
            parent_id = parent_id and self.stored(parent_id)
            if self._is_saved(chat_id):
                try:
                    return self.store.add_message(
                        chat_id, parent_id, role, content, state=state, details=details, durable=durable
                    )
                except StoreError as error:
                    self.trouble = str(error)
            chat_id, parent_id = self.stored(chat_id), parent_id and self.stored(parent_id)
            number = next(self._new_ids)
            unsaved = self._unsaved.setdefault(chat_id, _Unsaved())
            unsaved.messages[number] = StoredMessage(
                number, chat_id, parent_id, role, content, state, time.time(), details or {}, 1, 1
            )
            if unsaved.chat is not None:
                title = unsaved.chat.title or (title_from(content) if role == "user" else "")
                unsaved.chat = replace(unsaved.chat, title=title, messages=unsaved.chat.messages + 1)
            unsaved.head, unsaved.head_is_set = number, True
            return number

    def update(self, chat_id: int, message_id: int, *, durable: bool = False, **values: Any) -> None:
        """Replace content, state or details of a message."""
        with self._lock:
            chat_id, message_id = self.stored(chat_id), self.stored(message_id)
            if self._is_saved(chat_id):
                try:
                    self.store.update_message(self.stored(message_id), durable=durable, **values)
                    return
                except StoreError as error:
                    self.trouble = str(error)
            chat_id, message_id = self.stored(chat_id), self.stored(message_id)
            unsaved = self._unsaved.setdefault(chat_id, _Unsaved())
            if message_id in unsaved.messages:
                unsaved.messages[message_id] = replace(unsaved.messages[message_id], **values)
            else:
                unsaved.changes.setdefault(message_id, {}).update(values)

    def heartbeat(self, message_ids: list[int]) -> None:
        """Say that these replies are still being written."""
        with self._lock, suppress(StoreError):  # nothing is lost by that
            self.store.heartbeat([number for number in map(self.stored, message_ids) if number > 0])

    def take_back(self, chat_id: int, message_id: int) -> None:
        """Remove a message that nothing follows; where it was the head, its parent is."""
        with self._lock:
            chat_id, message_id = self.stored(chat_id), self.stored(message_id)
            unsaved = self._unsaved.get(chat_id)
            if unsaved is not None and message_id in unsaved.messages:
                message = unsaved.messages.pop(message_id)
                if unsaved.head == message_id:
                    unsaved.head = message.parent_id
                return
            try:
                self.store.take_back(message_id)
            except StoreError as error:
                self.trouble = str(error)

    def select(self, chat_id: int, message_id: int) -> None:
        """Show the branch with the message, down to its newest leaf."""
        with self._lock:
            chat_id, message_id = self.stored(chat_id), self.stored(message_id)
            if self._is_saved(chat_id):
                try:
                    return self.store.select(message_id)
                except StoreError as error:
                    self.trouble = str(error)
            below = {message_id}
            leaf = message_id
            for message in self._nodes(chat_id).values():  # parents come before children
                if message.parent_id in below:
                    below.add(message.id)
                    leaf = message.id
            self._set_unsaved_head(chat_id, leaf)

    def set_head(self, chat_id: int, message_id: int | None) -> None:
        """Make the message the last one that is shown."""
        with self._lock:
            chat_id, message_id = self.stored(chat_id), message_id and self.stored(message_id)
            if self._is_saved(chat_id):
                try:
                    return self.store.set_head(chat_id, message_id)
                except StoreError as error:
                    self.trouble = str(error)
            self._set_unsaved_head(chat_id, message_id)

    def sibling(self, chat_id: int, message_id: int, step: int) -> int | None:
        """Return the id of the sibling `step` places further, None where there is none."""
        with self._lock:
            chat_id, message_id = self.stored(chat_id), self.stored(message_id)
            if chat_id not in self._unsaved:
                return self.store.sibling(message_id, step)
            nodes = self._nodes(chat_id)
            parent = nodes[message_id].parent_id
            siblings = [message.id for message in nodes.values() if message.parent_id == parent]
            place = siblings.index(message_id) + step
            return siblings[place] if 0 <= place < len(siblings) else None

    # ---- what could not be written

    @property
    def pending(self) -> bool:
        """Whether something is in memory alone."""
        return bool(self._unsaved)

    def flush(self) -> None:
        """Try to write what is in memory alone."""
        with self._lock:
            for chat_id in list(self._unsaved):
                self._is_saved(chat_id)
            self._forget_trouble()

    def _is_saved(self, chat_id: int) -> bool:
        """Return whether all of a chat is in the store, after trying to put it there."""
        unsaved = self._unsaved.get(chat_id)
        if unsaved is None:
            return True
        try:
            self._write(chat_id, unsaved)
        except StoreError as error:
            self.trouble = str(error)
            return False
        self._forget_trouble()
        return True

    def _forget_trouble(self) -> None:
        if not self._unsaved and not self.store.read_only:
            self.trouble = None

    def _write(self, chat_id: int, unsaved: _Unsaved) -> None:
        if unsaved.chat is not None:
            chat, unsaved.chat = unsaved.chat, None
            try:
                self._stored[chat_id] = self.store.create_chat(chat.title, chat.settings)
            except StoreError:
                unsaved.chat = chat
                raise
            unsaved.values = {name: value for name in ("draft", "pinned") if (value := getattr(chat, name))}
            self._unsaved[self._stored[chat_id]] = self._unsaved.pop(chat_id)
            chat_id = self._stored[chat_id]
        for number, message in list(unsaved.messages.items()):
            self._stored[number] = self.store.add_message(
                chat_id,
                message.parent_id and self.stored(message.parent_id),
                message.role,
                message.content,
                state=message.state,
                details=message.details,
                durable=True,
            )
            del unsaved.messages[number]
        for number, values in list(unsaved.changes.items()):
            self.store.update_message(number, **values)
            del unsaved.changes[number]
        if unsaved.head_is_set:
            self.store.set_head(chat_id, unsaved.head and self.stored(unsaved.head))
        self._change_chat(chat_id, unsaved.values)
        del self._unsaved[chat_id]

    def _change_chat(self, chat_id: int, values: dict[str, Any]) -> None:
        write = {
            "title": self.store.rename,
            "draft": self.store.set_draft,
            "settings": self.store.set_settings,
            "pinned": self.store.pin,
        }
        for name, value in values.items():
            write[name](chat_id, value)

    def _as_changed(self, chat: Chat) -> Chat:
        unsaved = self._unsaved.get(chat.id)
        return replace(chat, **unsaved.values) if unsaved is not None and unsaved.values else chat

    def _nodes(self, chat_id: int) -> dict[int, StoredMessage]:
        """Return the whole tree by id, parents before children, with what is in memory alone."""
        unsaved = self._unsaved.get(chat_id, _Unsaved())
        messages = self.store.tree(chat_id) if chat_id > 0 else []
        messages = [replace(each, **unsaved.changes.get(each.id, {})) for each in messages]
        messages += [
            replace(each, parent_id=each.parent_id and self.stored(each.parent_id))
            for each in unsaved.messages.values()
        ]
        siblings = Counter(message.parent_id for message in messages)
        seen: Counter[int | None] = Counter()
        nodes = {}
        for message in messages:
            seen[message.parent_id] += 1
            nodes[message.id] = replace(message, position=seen[message.parent_id], siblings=siblings[message.parent_id])
        return nodes

    def _head(self, chat_id: int) -> int | None:
        unsaved = self._unsaved[chat_id]
        if unsaved.head_is_set:
            return unsaved.head and self.stored(unsaved.head)
        path = self.store.path(chat_id) if chat_id > 0 else []
        return path[-1].id if path else None

    def _set_unsaved_head(self, chat_id: int, message_id: int | None) -> None:
        unsaved = self._unsaved.setdefault(chat_id, _Unsaved())
        unsaved.head, unsaved.head_is_set = message_id, True
