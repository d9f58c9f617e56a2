"""The chat on the screen: its messages, its settings, and what can be done with them, apart from how it looks."""

from collections.abc import Callable
from typing import Any

from inference.errors import InputError

from .chat_settings import ChatSettings, from_store
from .keeper import Keeper
from .model_host import ModelHost
from .prompting import folded_so_far
from .replies import Reply, ReplyRunner
from .store import StoredMessage

BUSY = "this chat is still being answered; Esc stops that"


class OpenChat:
    """One chat, or a new one that is in the store as soon as there is something to store (`chat_id` None until then).

    Every method that has something answered raises InputError where that cannot be.
    """

    def __init__(
        self, keeper: Keeper, runner: ReplyRunner, host: ModelHost, defaults: Callable[[], ChatSettings]
    ) -> None:
        self._keeper, self._runner, self._host, self._defaults = keeper, runner, host, defaults
        self.chat_id: int | None = None
        self.title = ""
        self.draft = ""
        self.path: list[StoredMessage] = []
        self._stored_settings: dict[str, Any] = {}

    # ---- opening

    def open(self, chat_id: int | None) -> None:
        """Turn to a chat, or to a new one.

        Raises:
            StoreError: there is no such chat, or it cannot be read; the one before stays open.
        """
        if chat_id is None:
            self.chat_id, self.title, self.draft, self.path, self._stored_settings = None, "", "", [], {}
            return
        chat = self._keeper.chat(chat_id)
        path = self._keeper.path(chat_id)
        self.chat_id, self.title, self.draft, self.path = chat.id, chat.title, chat.draft, path
        self._stored_settings = chat.settings

    def refresh(self) -> None:
        """Read it again."""
        if self.chat_id is not None:
            self._runner.renumber()
            self.chat_id = self._keeper.stored(self.chat_id)
            self.title = self._keeper.chat(self.chat_id).title
            self.path = self._keeper.path(self.chat_id)

    def ensure(self) -> int:
        """Return the id of the chat, after making it where it is new."""
        if self.chat_id is None:
            self.chat_id = self._keeper.create_chat(self._stored_settings)
        return self.chat_id

    def keep_draft(self, text: str) -> None:
        """Store what was typed and not sent.

        Raises:
            NotFoundError: there is no such chat any more.
        """
        self._keeper.change_chat(self.ensure(), draft=text)
        self.draft = text  # not before: what failed is to be tried again

    @property
    def reply(self) -> Reply | None:
        """The reply that is being made here."""
        return self._runner.of(self.chat_id) if self.chat_id is not None else None

    @property
    def is_written_elsewhere(self) -> bool:
        """Whether the last message is a reply that somebody else is writing, or was before they died."""
        return bool(self.path) and self.path[-1].state == "streaming" and self.reply is None

    @property
    def folded(self) -> int:
        """How many messages the model does not see."""
        reply = self.reply
        if reply is not None and reply.phase in ("reading", "writing"):
            return reply.folded
        loaded = self._host.loaded
        return folded_so_far(self.path, loaded.n_ctx if loaded is not None else 0)

    @property
    def is_empty(self) -> bool:
        """Whether nothing was said."""
        return not self.path

    # ---- settings

    @property
    def settings(self) -> ChatSettings:
        """How it is answered."""
        return from_store(self._stored_settings, self._defaults())

    def change_settings(self, settings: ChatSettings) -> None:
        """Answer it so from now on.

        Raises:
            NotFoundError: there is no such chat any more; they hold while it is open.
        """
        self._stored_settings = settings.to_store(self._defaults())
        if self.chat_id is not None:
            self._keeper.change_chat(self.chat_id, settings=self._stored_settings)

    # ---- asking

    def ask(self, text: str) -> Reply:
        """Say `text` and have it answered."""
        self._check_free()
        settings = self.settings
        return self._runner.ask(self.ensure(), self.path, text, settings.sampling, settings.system)

    def edit(self, message_id: int, text: str) -> Reply:
        """Say `text` in place of what the user said there; the old branch stays as a sibling."""
        self._check_free()
        place = self._place(message_id)
        settings = self.settings
        return self._runner.ask(
            self.ensure(), self.path[:place], text, settings.sampling, settings.system, self.path[-1].id
        )

    def regenerate(self, message_id: int | None = None) -> Reply:
        """Have the message answered again; that is a reply, or what the user said, or by default the last message."""
        self._check_free()
        if not self.path:
            raise InputError("there is nothing to answer yet")
        place = self._place(message_id) if message_id is not None else len(self.path) - 1
        end = place + 1 if self.path[place].role == "user" else place
        if not end:
            raise InputError("there is no question before that reply")
        settings = self.settings
        return self._runner.regenerate(
            self.ensure(), self.path[:end], settings.sampling, settings.system, self.path[-1].id
        )

    def go_on(self) -> Reply:
        """Let the last reply go on, or have the last question answered where nothing answers it yet."""
        self._check_free()
        if not self.path:
            raise InputError("there is nothing to continue yet")
        last, settings = self.path[-1], self.settings
        if last.role == "user" or not last.content:
            return self.regenerate()
        if last.state == "complete" and last.details.get("reason") != "length":
            raise InputError("the last reply is complete; Ctrl+R asks for another one")
        return self._runner.go_on(self.ensure(), self.path, settings.sampling, settings.system)

    def switch(self, message_id: int, step: int) -> int | None:
        """Show the sibling of the message that is `step` places further; return its id, None where there is none."""
        self._check_free()
        other = self._keeper.sibling(self.ensure(), message_id, step)
        if other is not None:
            self._keeper.select(self.ensure(), other)
            self.refresh()
        return other

    def show_message(self, message_id: int) -> None:
        """Turn to the branch with the message, where it is not on the one that is shown."""
        if all(message.id != message_id for message in self.path) and self.reply is None:
            self._keeper.select(self.ensure(), message_id)
            self.refresh()

    def last_with_siblings(self) -> int | None:
        """Return the id of the last message that has several versions."""
        return next((message.id for message in reversed(self.path) if message.siblings > 1), None)

    def last_of_user(self) -> StoredMessage | None:
        """Return what the user said last."""
        return next((message for message in reversed(self.path) if message.role == "user"), None)

    def message(self, message_id: int | None) -> StoredMessage | None:
        """Return a message on the path."""
        message_id = message_id and self._keeper.stored(message_id)
        return next((message for message in self.path if message.id == message_id), None)

    def _check_free(self) -> None:
        if self.reply is not None:
            raise InputError(BUSY)
        if self.is_written_elsewhere:
            raise InputError("another window is writing a reply in this chat; wait for it, or begin a new chat")

    def _place(self, message_id: int) -> int:
        for place, message in enumerate(self.path):
            if message.id == self._keeper.stored(message_id):
                return place
        raise InputError("that message is not shown any more")
