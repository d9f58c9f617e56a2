"""koala-tui: the application. It joins the store, the model, the replies in the making, and the screens."""

import asyncio
import gc
import os
import signal
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Literal

from textual import events
from textual.app import App, SystemCommand
from textual.binding import Binding, BindingType
from textual.screen import Screen
from textual.timer import Timer
from textual.widget import Widget

from inference.errors import EngineError
from inference.load_options import LoadOptions
from inference.sampling import Sampling

from . import commands, state
from .chat_settings import ChatSettings
from .commands import COMMANDS, Command
from .config import Config
from .downloads import Downloads
from .keeper import Keeper
from .memory import resident_bytes
from .model_host import ModelHost, StartEngine, Target, start_engine
from .open_chat import OpenChat
from .replies import ReplyRunner
from .screens.chat import ChatScreen
from .store import NotFoundError, Store, StoreError
from .text import harmless
from .theme import KOALA_THEME, THEMES

PATIENCE_SECONDS = 0.3  # how long the app waits for another program's turn with the store; then memory keeps it
WATCH_SECONDS = 2.0  # how often the store is asked whether another koala-tui has written
CLOSING_SECONDS = 2.0
TYPED_SECONDS = 1.0  # the longest that a key waits for those before it
KEPT_DELETED_SECONDS = 7 * 24 * 3600

Severity = Literal["information", "warning", "error"]


class KoalaApp(App[int], inherit_bindings=False):
    """Chats with one model at a time. The first frame waits neither for the model nor for old chats."""

    TITLE = "Koala"
    CSS_PATH = "screens/chat.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [
        *commands.bindings("everywhere"),
        Binding("ctrl+c", "help_quit", "How to quit", show=False, system=True),
    ]
    ENABLE_COMMAND_PALETTE = True
    COMMAND_PALETTE_BINDING = ""

    def __init__(
        self,
        *,
        store: Store,
        config: Config | None = None,
        target: Target | None = None,
        load: LoadOptions | None = None,
        sampling: Sampling | None = None,
        system: str | None = None,
        preset: str | None = None,
        chat_id: int | None = None,
        start: StartEngine = start_engine,
    ) -> None:
        """`chat_id` is the chat to begin with; None begins a new one.

        Raises:
            InputError: the keys in the config cannot be used.
        """
        self.config = config or Config()
        keys = commands.check_keys(self.config.keys)
        super().__init__()
        self.set_keymap(keys)
        self.store, self.keeper = store, Keeper(store)
        store.wait_at_most(PATIENCE_SECONDS)
        self.host = ModelHost(start, target, self.config.load if load is None else load)
        self.screen_of_chats = ChatScreen(self.config.keys)
        self.runner = ReplyRunner(self.keeper, self.host, self.screen_of_chats)
        self.host.changed, self.host.release = self._host_changed, self.runner.stop_all
        self.defaults = ChatSettings(self.config.sampling if sampling is None else sampling, system, preset)
        self.chat = OpenChat(self.keeper, self.runner, self.host, lambda: self.defaults)
        self.downloads = Downloads(lambda text, well: self.say(text, "information" if well else "error"))
        self.deleted: list[int] = []
        self.is_first_run = False
        self._first_chat = chat_id
        self._trouble: str | None = None
        self._retry: Timer | None = None
        self._shown_error: EngineError | None = None
        self._end: asyncio.Task[None] | None = None
        self._warned_of_loss = False
        self._remembered = state.recall()
        for theme in THEMES:
            self.register_theme(theme)
        self.theme = self._first_theme()

    # ---- what the screens use

    @property
    def chat_id(self) -> int | None:
        """The chat that is open; None for a new one that is not in the store yet."""
        return self.chat.chat_id

    def open_chat(self, chat_id: int | None, message_id: int | None = None, highlight: str = "") -> None:
        """Show a chat, on the branch with the message if one is given; None begins a new one."""
        screen = self.screen_of_chats
        screen.save_draft()
        is_deleted = self.chat_id in self.deleted
        if chat_id is None and self.chat.is_empty and not self.chat.draft.strip() and not is_deleted:
            return  # it is a new one
        try:
            self.chat.open(chat_id)
            if message_id is not None:
                self.chat.show_message(message_id)
        except StoreError as error:
            self.say(str(error), "error")
            return
        screen.show_chat(self.chat.draft)
        if message_id is not None:
            screen.conversation.jump_to(message_id, highlight)

    def chat_settings(self) -> ChatSettings:
        """Return how the open chat is answered."""
        return self.chat.settings

    def set_chat_settings(self, settings: ChatSettings) -> None:
        """Answer the open chat so from now on."""
        try:
            self.chat.change_settings(settings)
        except StoreError as error:
            self.note_trouble(str(error))
        self.screen_of_chats.show_around()
        self.screen_of_chats.count_tokens()

    def load_model(self, target: Target, options: LoadOptions | None = None) -> None:
        """Exchange the model for another one, in the background."""

        async def switch() -> None:
            with suppress(EngineError):  # `_host_changed` says it
                await self.host.switch(target, options)

        self.run_worker(switch(), group="model", exclusive=False)

    def say(self, text: str, severity: Severity = "information") -> None:
        """Show a sentence for a moment."""
        self.notify(harmless(text), severity=severity, markup=False, timeout=4 if severity == "information" else 8)

    def note_trouble(self, trouble: str | None) -> None:
        """Say once that the store cannot be written or read, and once that it can be again."""
        if trouble and not self._trouble:
            then = "is gone when you leave" if self.store.read_only else "is kept in memory and written later"
            self.say(f"{trouble}. The chat goes on; what cannot be written {then}", "error")
        elif self._trouble and not trouble:
            self.say("everything is written now")
            self._warned_of_loss = False
        self._trouble = trouble
        if trouble and self._retry is None and not self.store.read_only:
            self._retry = self.set_timer(WATCH_SECONDS, self._write_what_is_left)

    def remember(self, **values: Any) -> None:
        """Remember something until the next start."""
        self._remembered |= values
        state.remember(**values)

    def copy_to_clipboard(self, text: str) -> None:
        """Copy what was selected with the mouse."""
        self.run_worker(self.copy_text(text, "selection"))

    async def copy_text(self, text: str, what: str) -> None:
        """Copy a text and say where it went."""
        from .clipboard import copy

        self.say(await copy(self, text, what))

    # ---- commands

    def run_command(self, command: Command, argument: str = "") -> None:
        """Carry out a command."""
        if command.screen:
            self.action_open_screen(command.name)
            return
        target = self if command.where == "everywhere" else self.screen_of_chats
        action = getattr(target, f"action_{command.action}")
        result = action(argument) if command.arguments else action()
        if asyncio.iscoroutine(result):
            self.run_worker(result)

    def action_open_screen(self, name: str) -> None:
        """Open the screen of a command."""
        module, _, kind = commands.command(name).screen.partition(":")
        self.push_screen(getattr(import_module(module), kind)())

    def action_palette(self) -> None:
        """Show all commands to choose from."""
        self.action_command_palette()

    def action_help(self) -> None:
        """Show keys, commands and facts."""
        from .screens.help import HelpScreen

        if not isinstance(self.screen, HelpScreen):
            self.push_screen(HelpScreen())

    def action_theme(self, name: str = "") -> None:
        """Change the colours."""
        if not name:
            self.search_themes()
        elif name in self.available_themes:
            self.theme = name
        else:
            self.say(f"there is no theme {name!r}; there are {', '.join(sorted(self.available_themes))}", "warning")

    async def action_quit(self) -> None:
        """Leave; what is being written is kept, and where that cannot be, the second call leaves."""
        if self.keeper.pending and not self.store.read_only and not self._warned_of_loss:
            self._warned_of_loss = True
            self.say(
                f"{self.keeper.trouble}. To leave now loses what is in memory alone: "
                "make room first, or quit once more to leave all the same",
                "error",
            )
            return
        self.screen_of_chats.status_line.show(state="closing")
        await self.shut_down()
        self.exit(0)

    def get_system_commands(self, screen: Screen) -> Iterable[SystemCommand]:
        """Offer the commands in the palette."""
        for command in COMMANDS:
            if command.typed:
                keys = commands.key_names(command, self.config.keys)
                title = command.name.replace("-", " ").capitalize()
                yield SystemCommand(
                    title, f"{command.help}{f'  ({keys})' if keys else ''}", self._palette_call(command)
                )

    def _palette_call(self, command: Command):
        def call() -> None:
            if command.arguments and not command.arguments.startswith("["):
                self.screen_of_chats.composer.fill(f"/{command.name} ")
                self.screen_of_chats.composer.focus()
            else:
                self.run_command(command)

        return call

    # ---- beginning and end

    def get_default_screen(self) -> Screen:
        """Begin with the chats."""
        return self.screen_of_chats

    def on_mount(self) -> None:
        """Choose the first chat; the screen shows it."""
        wanted = self.config.sidebar
        self.screen_of_chats.sidebar_wanted = self._remembered.get("sidebar", True) if wanted is None else wanted
        self._choose_first_chat()
        self.theme_changed_signal.subscribe(self, lambda theme: self.remember(theme=theme.name))

    def _choose_first_chat(self) -> None:
        first_page = self.screen_of_chats.load_chats(20, 0)
        self.is_first_run = not any(chat.messages for chat in first_page)
        if self._first_chat is None:  # a draft that was never sent waits where it was left
            self._first_chat = next((chat.id for chat in first_page if not chat.messages and chat.draft.strip()), None)
        if self._first_chat is not None:
            with suppress(StoreError):
                self.chat.open(self._first_chat)

    def begin(self) -> None:
        """Do what can wait until the first frame is there."""
        loop = asyncio.get_running_loop()
        for name in ("SIGTERM", "SIGHUP"):
            with suppress(NotImplementedError, RuntimeError, ValueError, AttributeError):
                loop.add_signal_handler(getattr(signal, name), self._on_signal, getattr(signal, name))
        self.run_worker(self.host.load(), group="model")
        self.run_worker(asyncio.to_thread(self._tidy_up), group="store")
        self.run_worker(self._warm_up(), group="warm-up")
        self.set_interval(WATCH_SECONDS, self._watch)
        if self.store.notice:
            self.say(self.store.notice, "warning")
        if self.host.target is None:
            self.action_open_screen("model")

    def _tidy_up(self) -> None:
        with suppress(StoreError):
            self.store.interrupted()
            self.store.purge_deleted(time.time() - KEPT_DELETED_SECONDS)

    async def _warm_up(self) -> None:
        """Do beforehand what would hold up the first reply."""
        await asyncio.to_thread(_warm_up_markdown)
        gc.collect()
        gc.freeze()  # what is there by now stays, and need not be looked at in the middle of a reply

    async def on_event(self, event: events.Event) -> None:
        """Let a key with priority find what was typed before it: it would overtake letters."""
        if isinstance(event, events.Key) and not event.is_forwarded and self.focused is not None:
            active = self.screen.active_bindings.get(event.key)
            if active is not None and active.binding.priority:
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._take_in(self.focused), TYPED_SECONDS)
        await super().on_event(event)

    async def _take_in(self, widget: Widget) -> None:
        # What is sent goes up from the composer to the screen, through the queue of each widget on the way.
        for node in widget.ancestors_with_self:
            done = asyncio.Event()
            if node is self or not node.call_later(done.set):
                return
            await done.wait()

    def _on_signal(self, number: int) -> None:
        if number == getattr(signal, "SIGHUP", None) and not self.is_headless:
            # The terminal is gone. Whoever goes on writing to it fails, and Textual then waits for ever.
            for descriptor in (1, 2):
                os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
        self.run_worker(self._leave_in_any_case(), group="quit")

    async def _leave_in_any_case(self) -> None:
        await self.shut_down()
        if not self.is_headless:
            last_resort = threading.Timer(CLOSING_SECONDS, os._exit, [0])  # all is stored by now
            last_resort.daemon = True
            last_resort.start()
        self.exit(0)

    async def on_unmount(self) -> None:
        """Leave no process behind, and nothing unsaved."""
        await self.shut_down()

    async def shut_down(self) -> None:
        """End the replies, keep what was said and typed, and let go of the model. Whoever calls waits for all of it."""
        if self._end is None:
            self._end = asyncio.create_task(self._shut_down())
        await asyncio.shield(self._end)

    async def _shut_down(self) -> None:
        self.screen_of_chats.save_draft()
        await self.runner.close()
        await asyncio.to_thread(self.keeper.flush)
        await self.downloads.close()
        await self.host.close()
        self.screen_of_chats.save_draft()  # what was typed meanwhile

    # ---- what happens meanwhile

    def _host_changed(self) -> None:
        if self._end is not None or not self.screen_of_chats.is_running:
            return
        error = self.host.error
        if error is not None and error is not self._shown_error:
            self._shown_error = error
            if not self.runner.active:  # the replies that wait for the model fail with the same sentence
                self.screen_of_chats.notice(str(error))
        if self.host.running is not None:
            self._shown_error = None
            self._measure_memory()
            self.screen_of_chats.count_tokens()
            if isinstance(self.host.target, Path):
                self.remember(last_model=str(self.host.target.absolute()))
        self.screen_of_chats.show_messages()  # another context may see more of them

    def _watch(self) -> None:
        """Look now and then whether another window has written, and at the memory."""
        try:
            changed = self.store.changed()
        except StoreError:
            return
        if changed:
            self.refresh_chat()
            self.screen_of_chats.chat_list.reload()
        self._measure_memory()
        if self.chat.is_written_elsewhere:
            self.run_worker(self._look_for_the_dead(), group="store")

    async def _look_for_the_dead(self) -> None:
        """Find replies whose writers are gone."""
        with suppress(StoreError):
            await asyncio.to_thread(self.store.interrupted)
            self.refresh_chat()

    def refresh_chat(self) -> bool:
        """Read the open chat again; return whether that was possible. Where it is gone, a new one has the draft."""
        is_read = True
        try:
            self.chat.refresh()
        except NotFoundError as error:
            self.say(str(error), "warning")
            typed = self.screen_of_chats.typed()
            self.chat.open(None)
            self.screen_of_chats.show_chat(typed)
        except StoreError as error:
            is_read = False
            self.note_trouble(str(error))
        self.screen_of_chats.show_messages()
        return is_read

    def _measure_memory(self) -> None:
        pids = [os.getpid()] + ([self.host.pid] if self.host.pid is not None else [])
        self.screen_of_chats.status_line.show(memory=round(resident_bytes(pids) / 2**30, 1) * 2**30)

    async def _write_what_is_left(self) -> None:
        self._retry = None
        if self._end is not None:
            return
        await asyncio.to_thread(self.keeper.flush)
        if self.refresh_chat():
            self.note_trouble(self.keeper.trouble)
        self.screen_of_chats.chat_list.reload()

    def _first_theme(self) -> str:
        wanted = self.config.theme or self._remembered.get("theme")
        return wanted if wanted in self.available_themes else KOALA_THEME.name


def _warm_up_markdown() -> None:
    from .markdown.stream import warm_up

    warm_up()
