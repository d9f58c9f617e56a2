"""The screen on which one chats: what it shows, and how it follows what happens. Its commands: `chat_actions`."""

import time
from collections.abc import Mapping
from contextlib import suppress
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.screen import Screen
from textual.timer import Timer
from textual.widgets import Static

from inference.errors import EngineError

from ..commands import bindings, command, key_names, message_text, parse
from ..entries import entries
from ..honesty import honesty
from ..keeper import Keeper
from ..model_host import Endpoint
from ..prompting import prompt
from ..replies import Reply
from ..store import StoreError
from ..text import harmless
from ..widgets.command_hints import CommandHints
from ..widgets.composer import Composer
from ..widgets.empty_state import EmptyState, Greeting, short_count
from ..widgets.sidebar import UNTITLED, ChatList
from ..widgets.status_line import StatusLine
from ..widgets.transcript import Entry, Transcript
from .chat_actions import ChatActions

DRAFT_SECONDS = 0.5
STATUS_SECONDS = 0.5
SIDEBAR_COLUMNS = 90  # a narrower terminal shows the list of chats over the conversation, and only when asked


class Conversation(Transcript):
    """The transcript with the keys for a message."""

    BINDINGS: ClassVar[list[BindingType]] = bindings("conversation")


class ChatScreen(ChatActions, Screen[None]):
    """List of chats, conversation, composer and status line. It shows the app's open chat and watches the replies."""

    BINDINGS: ClassVar[list[BindingType]] = bindings("chat")
    VERTICAL_BREAKPOINTS: ClassVar[list[tuple[int, str]] | None] = [(0, "-low"), (24, "-high")]

    def __init__(self, keys: Mapping[str, str]) -> None:
        super().__init__()
        self.chat_list = ChatList(self.load_chats)
        self.title_line = Static(id="chat-title", markup=False)
        self.empty_state = EmptyState(keys)
        self.conversation = Conversation()
        self.hints = CommandHints(keys)
        self.composer = Composer("Message …", self._history)
        self.status_line = StatusLine()
        self.editing: int | None = None  # the message of the user that is being changed
        self.unsent = ""  # what was in the composer before that
        self.sidebar_wanted = True
        self.sidebar_over = False
        self._notices: list[tuple[int | None, Entry]] = []
        self._notice_keys = -1000
        self._draft_timer: Timer | None = None
        self._status_shown = 0.0
        self._context_used = 0

    def compose(self) -> ComposeResult:
        """Lay out the list of chats beside the conversation above the composer above the status line."""
        with Horizontal():
            yield self.chat_list
            with Vertical(id="main"):
                yield self.title_line
                yield self.empty_state
                yield self.conversation
                yield self.hints
                yield self.composer
                yield self.status_line

    @property
    def keeper(self) -> Keeper:
        """What keeps what is said."""
        return self.app.keeper

    def load_chats(self, limit: int, offset: int) -> list:
        """Return a page of the chats, none where the store cannot be read."""
        try:
            return self.keeper.chats(limit, offset)
        except StoreError as error:
            self.app.note_trouble(str(error))
            return []

    def _history(self) -> list[str]:
        try:
            return self.keeper.store.history()
        except StoreError as error:
            self.app.say(str(error), "error")
            return []

    # ---- what is shown

    def show_chat(self, draft: str) -> None:
        """Show the chat that the app has opened."""
        self.editing = None
        self._notices.clear()
        self._context_used = 0
        self.composer.remove_class("-editing")
        self.composer.border_title = ""
        self.composer.fill(draft)
        self.conversation.show(self._entries())
        self.show_around()
        self.count_tokens()

    def show_messages(self) -> None:
        """Bring the conversation up to date with the least change."""
        wanted, shown = self._entries(), self.conversation.entries()
        if [entry.key for entry in shown] == [entry.key for entry in wanted[: len(shown)]]:
            for old, new in zip(shown, wanted, strict=False):
                if old != new:
                    self.conversation.change(
                        new.key,
                        text=new.text if new.text != old.text else None,
                        speaker=new.speaker,
                        note=new.note,
                        position=new.position,
                        siblings=new.siblings,
                        streaming=new.streaming,
                    )
            for new in wanted[len(shown) :]:
                self.conversation.append(new)
        else:
            self.conversation.show(wanted)
        self.show_around()

    def show_around(self) -> None:
        """Bring everything but the conversation up to date."""
        chat = self.app.chat
        self.empty_state.display = empty = chat.is_empty and not self._notices
        self.conversation.display = not empty
        if empty:
            self.empty_state.greet(self._greeting())
        self.title_line.update(self._title())
        self.chat_list.show(open_id=chat.chat_id, busy=self._busy())
        self.show_status()

    def _entries(self) -> list[Entry]:
        chat = self.app.chat
        reply = chat.reply
        shown = entries(chat.path, folded=chat.folded, continue_key=self._key("continue"))
        if reply is not None:
            for entry in shown:
                if entry.key == reply.message_id:
                    entry.text, entry.streaming, entry.note = reply.text, True, _note(reply)
        for after, notice in reversed(self._notices):
            place = next((i for i, entry in enumerate(shown) if entry.key == after), -1 if after is None else None)
            shown.insert(len(shown) if place is None else place + 1, notice)
        return shown

    def _key(self, name: str) -> str:
        return key_names(command(name), self.app.config.keys).split(", ")[0] or f"/{name}"

    def _title(self) -> Content:
        chat, settings = self.app.chat, self.app.chat.settings
        title = harmless(chat.title or UNTITLED).replace("\n", " ")
        return Content.assemble((title, "bold"), f"   {harmless(settings.preset)}" if settings.preset else "")

    def _greeting(self) -> Greeting:
        host = self.app.host
        endpoint = host.target.url if isinstance(host.target, Endpoint) else ""
        about = honesty(endpoint) if self.app.is_first_run else ""
        if host.target is None:
            return Greeting(
                "No model yet",
                "a GGUF file with a language model, such as Koala's",
                f"{self._key('model')} finds those on this machine and downloads others.",
                about,
            )
        details = [endpoint] if endpoint else []
        if host.header is not None:
            header = host.header
            details = [
                header.architecture,
                header.quantization,
                f"{short_count(header.parameters, ('', 'k', 'M', 'B', 'T'))} parameters",
                short_count(header.size_bytes, (" bytes", " kB", " MB", " GB", " TB")),
            ]
        return Greeting(host.name, " · ".join(filter(None, details)), honesty=about)

    def show_status(self) -> None:
        """Bring the status line up to date."""
        app, reply = self.app, self.app.chat.reply
        host = app.host
        if reply is not None:
            state = reply.status
        elif app.runner.active:
            state = "writing in another chat" if host.running is not None else "loading"
        else:
            state = "no model" if host.state == "none" else host.state
        if reply is not None and reply.phase in ("reading", "writing"):
            self._context_used = (reply.total or reply.done) + reply.tokens
            if reply.phase == "reading":
                self._context_used = reply.done
        last = app.chat.path[-1].details if app.chat.path else {}
        speed = reply.tokens_per_second if reply is not None else last.get("tokens_per_second")
        first = reply.seconds_to_first_token if reply is not None else last.get("time_to_first_token")
        self.status_line.show(
            state=state,
            model=harmless(host.name)[:40],
            quantization=host.header.quantization if host.header is not None else "",
            context_used=self._context_used,
            context_size=host.loaded.n_ctx if host.loaded is not None else 0,
            tokens_per_second=speed or 0.0,
            time_to_first_token=first or 0.0,
        )

    def count_tokens(self) -> None:
        """Find out how much of the context the chat takes."""
        self.run_worker(self._count_tokens, group="count", exclusive=True)

    async def _count_tokens(self) -> None:
        chat, engine = self.app.chat, self.app.host.running
        if engine is None or chat.reply is not None or not chat.path:
            return
        try:
            tokens = await engine.count_tokens(prompt(chat.path, chat.settings.system), folded=chat.folded)
        except EngineError:
            return  # the next message will say what is wrong
        if tokens is not None and chat.reply is None:
            self._context_used = tokens
            self.show_status()

    def notice(self, text: str) -> None:
        """Say in the conversation that something went wrong."""
        self._notice_keys -= 1
        path = self.app.chat.path
        self._notices.append((path[-1].id if path else None, Entry(self._notice_keys, "notice", text)))
        self.show_messages()

    # ---- the composer

    def on_composer_submitted(self, message: Composer.Submitted) -> None:
        """Carry out a command, or say something to the model."""
        message.stop()
        try:
            parsed = parse(message.text)
            if parsed is not None:
                self.app.run_command(*parsed)
                return
            text = message_text(message.text)
            if self.editing is not None:
                self.app.chat.edit(self.editing, text)
                self.end_editing()
            else:
                self.app.chat.ask(text)
        except (EngineError, StoreError) as error:
            self.composer.put_back(message.text)
            self.app.say(str(error), "warning")

    def on_composer_help_wanted(self) -> None:
        """Open the help."""
        self.app.action_help()

    def on_composer_nothing_to_undo(self) -> None:
        """Undo what the app did last."""
        self.action_undo()

    def on_composer_tab_pressed(self) -> None:
        """Complete what is being typed, or go to the conversation."""
        if not self.complete():
            (self.conversation if self.conversation.display else self.chat_list).focus()

    def on_composer_dropped(self, message: Composer.Dropped) -> None:
        """Put the text of the files in the place of their paths."""
        self.run_worker(self.insert_files(message.files, in_place_of=message.pasted))

    def on_text_area_changed(self) -> None:
        """Offer commands, and keep the draft."""
        self.hints.offer(self.composer.text)
        if self._draft_timer is None:
            self._draft_timer = self.set_timer(DRAFT_SECONDS, self.save_draft)

    def save_draft(self) -> None:
        """Keep what is in the composer with the chat, so that it survives whatever happens."""
        if self._draft_timer is not None:
            self._draft_timer.stop()
            self._draft_timer = None
        chat = self.app.chat
        draft = self.typed()
        if draft == chat.draft or (chat.chat_id is None and not draft.strip()):
            return
        try:
            is_new = chat.chat_id is None
            chat.keep_draft(draft)
        except StoreError as error:
            self.app.note_trouble(str(error))
            return
        self.app.note_trouble(self.keeper.trouble)
        if is_new:
            self.chat_list.show(open_id=chat.chat_id, busy=self.chat_list.busy)

    def typed(self) -> str:
        """Return everything that was typed and not sent, with a change of an earlier message that was begun."""
        typed = self.composer.text
        if self.editing is None:
            return typed
        changed = self.app.chat.message(self.editing)
        if changed is None or typed.strip() in ("", harmless(changed.content).strip()):
            return self.unsent
        return f"{typed}\n\n{self.unsent}" if self.unsent.strip() else typed

    # ---- the conversation

    def on_transcript_copy_block(self, message: Transcript.CopyBlock) -> None:
        """Copy a code block."""
        self.copy(message.text, f"code block {message.number}")

    def on_transcript_sibling_wanted(self, message: Transcript.SiblingWanted) -> None:
        """Show another version of a message."""
        self.switch_version(message.key, message.step)

    # ---- the list of chats

    def on_chat_list_opened(self, message: ChatList.Opened) -> None:
        """Open the chat."""
        message.stop()
        self.app.open_chat(message.chat_id)
        self.sidebar_over = False
        self.arrange_sidebar()
        self.composer.focus()

    def arrange_sidebar(self) -> None:
        """Show the list of chats where there is room for it, or where the user asked for it."""
        wide = self.size.width >= SIDEBAR_COLUMNS
        self.chat_list.set_class(not wide, "-overlay")
        self.chat_list.display = self.sidebar_wanted if wide else self.sidebar_over

    def on_resize(self) -> None:
        """Arrange it anew."""
        self.arrange_sidebar()

    def on_mount(self) -> None:
        """Show the first chat, and begin with the composer."""
        self.chat_list.reload()
        self.arrange_sidebar()
        self.show_chat(self.app.chat.draft)
        self.composer.focus()
        self.call_after_refresh(self.app.begin)

    # ---- the replies, as their watcher

    def _is_shown(self, reply: Reply) -> bool:
        shown = self.app.chat.chat_id
        return self.is_running and shown is not None and self.keeper.stored(shown) == self.keeper.stored(reply.chat_id)

    def reply_began(self, reply: Reply) -> None:
        """Show the question and the reply, both of which are stored now."""
        self.app.note_trouble(self.keeper.trouble)
        if not self.is_running:
            return
        if self._is_shown(reply):
            self.save_draft()
            self.app.refresh_chat()
        self.chat_list.reload()
        self.show_around()

    def reply_changed(self, reply: Reply) -> None:
        """Show what it does."""
        if self._is_shown(reply):
            with suppress(KeyError):  # it has no place yet
                self.conversation.change(reply.message_id, note=_note(reply))
            self.show_status()
        if self.is_running:
            self.chat_list.show(open_id=self.app.chat.chat_id, busy=self._busy())

    def _busy(self) -> dict[int, str]:
        """Return what the model does for which chat."""
        return {self.keeper.stored(reply.chat_id): reply.phase for reply in self.app.runner.active}

    def reply_wrote(self, reply: Reply, text: str) -> None:
        """Show more of it."""
        if not self._is_shown(reply):
            return
        with suppress(KeyError):
            self.conversation.extend_text(reply.message_id, text)
        now = time.monotonic()
        if now - self._status_shown > STATUS_SECONDS:
            self._status_shown = now
            self.show_status()

    def reply_folded(self, reply: Reply) -> None:
        """Show where the model's sight begins now."""
        if self._is_shown(reply):
            self.show_messages()

    def reply_ended(self, reply: Reply) -> None:
        """Show it as a whole, with what there is to note; give the question back where nothing was said."""
        self.app.note_trouble(self.keeper.trouble)
        shown = self._is_shown(reply)
        if reply.given_back and reply.question is not None:
            self._give_back(reply, shown)
        if not self.is_running:
            return
        if shown:
            finished = reply.finished
            if finished is not None and finished.prompt_tokens is not None:
                self._context_used = finished.prompt_tokens + finished.completion_tokens
            self.app.refresh_chat()
            if finished is None or finished.prompt_tokens is None:
                self.count_tokens()
        if reply.error is not None:
            if shown:
                self.notice(str(reply.error))
            else:
                self.app.say(f"{self._title_of(reply)}: {reply.error}", "error")
        elif not shown and not reply.given_back:
            self.app.say(f"{self._title_of(reply)}: the reply is there")
        self.chat_list.reload()
        self.show_around()

    def reply_crashed(self, error: Exception) -> None:
        """Let the app end as it does after any mistake of its own."""
        self.app._handle_exception(error)

    def _title_of(self, reply: Reply) -> str:
        try:
            return self.keeper.chat(reply.chat_id).title or UNTITLED
        except StoreError:
            return UNTITLED

    def _give_back(self, reply: Reply, shown: bool) -> None:
        if shown and self.is_running:
            if self.editing is None:
                self.composer.put_back(reply.question)
            else:  # what is in the composer then goes with Esc
                self.unsent = "\n\n".join(text for text in (reply.question, self.unsent) if text.strip())
            self.save_draft()
            return
        try:
            draft = self.keeper.chat(reply.chat_id).draft
            text = f"{reply.question}\n\n{draft}" if draft.strip() else reply.question
            self.keeper.change_chat(reply.chat_id, draft=text)
        except StoreError as error:
            self.app.note_trouble(str(error))


def _note(reply: Reply) -> str:
    if reply.phase == "writing":
        return ""
    return "waiting for the model to load …" if reply.phase == "loading" else f"{reply.status} …"
