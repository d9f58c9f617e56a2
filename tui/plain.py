"""A chat line by line, for screen readers and simple terminals: no cursor movement, no colours, whole words.

It uses the same store and settings as the app, and neither Textual nor a terminal.
"""

import asyncio
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, TextIO

from inference.errors import EngineError, InputError

from . import state
from .attachments import fenced, read_text
from .chat_settings import ChatSettings
from .commands import message_text
from .config import Preset
from .honesty import honesty
from .keeper import Keeper
from .model_host import Endpoint, ModelHost
from .open_chat import OpenChat
from .plain_text import BLOCK, KOALA, YOU, Lines, Words, describe_chat
from .replies import Reply, ReplyRunner, Watcher
from .store import StoredMessage, StoreError
from .store.records import HIT, HIT_END
from .text import harmless

PROGRESS_SECONDS = 3.0
TWICE_SECONDS = 1.0
LISTED_CHATS = 20

COMMANDS: dict[str, tuple[str, str]] = {
    "help": ("", "this list"),
    "new": ("", "begin a new chat"),
    "stop": ("", "Ctrl+C stops a reply while it is written, and a second Ctrl+C quits"),
    "continue": ("", "let a reply that was cut or stopped go on"),
    "again": ("", "ask for another reply to the last message; the old one stays in the chat"),
    "show": ("", "say the whole chat once more"),
    "file": ("PATH", "put a text file into the next message"),
    "set": ("[KEY=VALUE …]", "change settings of this chat, such as temperature=0.2; alone, tell them"),
    "preset": ("[NAME]", "use a preset in this chat; alone, list them"),
    "system": ("[TEXT]", "set the system prompt of this chat; alone, remove it"),
    "chats": ("[WORDS]", "list the latest chats, or those in which the words were said"),
    "open": ("N", "go to the chat of that number"),
    "quit": ("", "leave; so does the end of the input, Ctrl+D"),
}
CUT_SHORT = {
    "cancelled": "Stopped. /continue lets it go on.",
    "length": "Cut at max_tokens={limit}. /continue lets it go on.",
    "context": "Cut because the context is full. /new begins another chat.",
}


def chat_by_lines(
    host: ModelHost,
    keeper: Keeper,
    defaults: ChatSettings,
    presets: Mapping[str, Preset],
    *,
    chat_id: int | None = None,
) -> int:
    """Chat on stdin and stdout until the user leaves, and return the exit code.

    Raises:
        EngineError: the model cannot be loaded.
        StoreError: there is no chat `chat_id`.
    """
    sys.stdin.reconfigure(errors="replace")
    chat = _PlainChat(host, keeper, defaults, presets, Lines(sys.stdin, sys.stdout, keeper.store.history), sys.stdout)
    return chat.run(chat_id)


class _PlainChat(Watcher):
    def __init__(
        self,
        host: ModelHost,
        keeper: Keeper,
        defaults: ChatSettings,
        presets: Mapping[str, Preset],
        lines: Lines,
        out: TextIO,
    ) -> None:
        self._host, self._keeper, self._presets, self._lines, self._out = host, keeper, presets, lines, out
        self._runner = ReplyRunner(keeper, host, self)
        self._chat = OpenChat(keeper, self._runner, host, lambda: defaults)
        self._loop = asyncio.new_event_loop()
        self._words = Words(out)
        self._files: list[str] = []  # texts that go into the next message
        self._unanswered = ""  # the question that nothing was said to
        self._trouble: str | None = None
        self._crash: Exception | None = None
        self._at_prompt = False
        self._attended: asyncio.Task | None = None  # the work that Ctrl+C stops
        self._interrupts = 0  # that nothing has been done about yet
        self._interrupted_at: float | None = None  # when Ctrl+C was pressed last, since the last line
        self._warned = False
        self._leaving = False

    def run(self, chat_id: int | None) -> int:
        """Load the model, then read and answer until the user leaves."""
        before = signal.signal(signal.SIGINT, self._interrupt)
        try:
            if self._keeper.store.notice:
                self._say(f"Note: {self._keeper.store.notice}")
            self._keeper.store.interrupted()
            self._chat.open(chat_id)
            self._attend(self._load())
            self._greet()
            while not self._leaving:
                self._turn()
        except EOFError:
            pass
        finally:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # what was said is being stored
            self._loop.run_until_complete(self._close())
            self._loop.close()
            signal.signal(signal.SIGINT, before)
        return 0

    async def _close(self) -> None:
        await self._runner.close()
        await self._host.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def _say(self, text: str) -> None:
        self._out.write(f"{harmless(text)}\n")
        self._out.flush()

    # ---- the turns

    def _turn(self) -> None:
        try:
            text = self._read()
        except KeyboardInterrupt:
            self._leaving = self._warned or self._is_second_interrupt()
            self._warned = True
            self._say("" if self._leaving else "\nCtrl+C once more quits.")
            return
        self._warned, self._interrupted_at = False, None
        try:
            if text.startswith("/") and not text.startswith("//"):
                self._obey(text)
            elif text.strip() or self._files:
                self._ask(message_text(text))
        except (EngineError, StoreError) as error:
            self._say(f"Error: {error}.")
        if self._keeper.trouble != self._trouble:
            self._trouble = self._keeper.trouble
            self._say(f"Note: {self._trouble or 'everything is on disk again'}.")
        if self._crash is not None:
            raise self._crash

    def _ask(self, text: str) -> None:
        question = "\n\n".join([*self._files, text] if text.strip() else self._files)
        self._files = []
        self._answer(lambda: self._chat.ask(question))

    def _answer(self, begin: Callable[[], Reply]) -> None:
        """Have a reply made and say it."""
        reply = self._attend(self._make(begin))
        self._words.end()
        self._chat.refresh()
        self._unanswered = (reply.question or "") if reply.given_back else ""
        if reply.error is not None:
            self._say(f"Error: {reply.error}.")
        elif reply.finished is not None and reply.finished.reason in CUT_SHORT and not reply.given_back:
            self._say(CUT_SHORT[reply.finished.reason].format(limit=reply.sampling.max_tokens))
        elif not reply.text and not reply.given_back:
            self._say("The model ended its reply without a word.")
        if self._unanswered:
            self._say("Your message was not answered. /again asks it once more.")

    async def _make(self, begin: Callable[[], Reply]) -> Reply:
        reply = begin()
        while not reply.task.done():
            await asyncio.wait([reply.task], timeout=PROGRESS_SECONDS)
            if not reply.task.done() and reply.phase != "writing":
                self._say(f"Koala is {reply.status}.")
        return reply

    async def _load(self) -> None:
        begun = time.monotonic()
        loading = asyncio.ensure_future(self._host.engine())
        while not loading.done():
            await asyncio.wait([loading], timeout=PROGRESS_SECONDS)
            if not loading.done():
                self._say(f"Loading the model, {time.monotonic() - begun:.0f} seconds so far.")
        loading.result()

    # ---- Ctrl+C

    def _interrupt(self, *_) -> None:
        """Break off the prompt, or else the work; what comes in between is for the next prompt."""
        self._interrupts += 1
        if self._at_prompt:
            self._at_prompt = False
            raise KeyboardInterrupt
        if self._attended is not None:
            self._loop.call_soon_threadsafe(self._interrupt_work)

    def _read(self) -> str:
        try:
            self._at_prompt = True
            if self._interrupts:
                raise KeyboardInterrupt
            return self._lines.message()
        finally:
            self._at_prompt, self._interrupts = False, 0

    def _attend(self, work: Coroutine) -> Any:
        """Do the work; Ctrl+C stops the reply that is being made, or ends everything where there is none."""
        self._attended = self._loop.create_task(work)
        try:
            return self._loop.run_until_complete(self._attended)
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None
        finally:
            self._attended = None

    def _interrupt_work(self) -> None:
        reply = self._chat.reply
        if self._attended is not None and self._host.running is None and reply is None:
            self._attended.cancel()
        elif reply is not None:
            self._interrupts = 0
            if self._is_second_interrupt():
                self._leaving = True
                reply.task.cancel()
            else:
                reply.stop()

    def _is_second_interrupt(self) -> bool:
        """Return whether this Ctrl+C is the second of two that belong together."""
        now = time.monotonic()
        before, self._interrupted_at = self._interrupted_at, now
        return before is not None and now - before < TWICE_SECONDS

    # ---- what the runner tells

    def reply_wrote(self, reply: Reply, text: str) -> None:
        """Say it, as far as the words are whole."""
        self._words.add(text)

    def reply_folded(self, reply: Reply) -> None:
        """Say what the model no longer sees."""
        self._words.end()
        self._say(f"Note: the first {reply.folded} messages are folded away; the model no longer sees them.")

    def reply_crashed(self, error: Exception) -> None:
        """Keep it until there is somebody to raise it to."""
        self._crash = error

    # ---- commands

    def _obey(self, text: str) -> None:
        name, _, argument = text[1:].strip().partition(" ")
        if name not in COMMANDS:
            raise InputError(f"there is no command /{name}; /help lists them, and two slashes send it as a message")
        usage, _ = COMMANDS[name]
        if argument and not usage:
            raise InputError(f"/{name} takes nothing after its name")
        if usage and not usage.startswith("[") and not argument:
            raise InputError(f"/{name} needs {usage}")
        getattr(self, f"_{name}")(argument.strip())

    def _help(self, _: str) -> None:
        for name, (usage, what) in COMMANDS.items():
            self._say(f"/{name} {usage}: {what}" if usage else f"/{name}: {what}")
        self._say(f"A message goes on after a backslash at the end of a line; {BLOCK} begins and ends a long one.")
        self._say(honesty(self._host.target.url if isinstance(self._host.target, Endpoint) else ""))

    def _new(self, _: str) -> None:
        self._chat.open(None)
        self._files, self._unanswered = [], ""
        self._say("A new chat.")

    def _stop(self, _: str) -> None:
        self._say("Nothing is being written. Ctrl+C stops a reply.")

    def _continue(self, _: str) -> None:
        self._answer(self._chat.go_on)

    def _again(self, _: str) -> None:
        question = self._unanswered
        self._answer((lambda: self._chat.ask(question)) if question else self._chat.regenerate)

    def _show(self, _: str) -> None:
        for message in self._chat.path:
            self._say_message(message)
        if not self._chat.path:
            self._say("Nothing has been said yet.")

    def _file(self, path: str) -> None:
        text = read_text(path)
        self._files.append(fenced(Path(path), text))
        self._say(f"{Path(path).name}, {len(text.splitlines())} lines, goes with your next message.")

    def _set(self, settings: str) -> None:
        chosen = self._chat.settings
        if settings:
            sampling = chosen.sampling.with_settings(settings.split())
            self._chat.change_settings(ChatSettings(sampling, chosen.system, chosen.preset))
        sampling = self._chat.settings.sampling
        self._say(", ".join(f"{key}={'random' if value is None else value}" for key, value in vars(sampling).items()))

    def _preset(self, name: str) -> None:
        if name and name not in self._presets:
            raise InputError(f"there is no preset {name}; there are {', '.join(self._presets)}")
        if name:
            self._chat.change_settings(self._chat.settings.with_preset(name, self._presets[name]))
            self._say(f"This chat uses the preset {name}.")
        else:
            self._say(f"Presets: {', '.join(self._presets)}. This chat uses {self._chat.settings.preset or 'none'}.")

    def _system(self, text: str) -> None:
        chosen = self._chat.settings
        self._chat.change_settings(ChatSettings(chosen.sampling, text or None, chosen.preset))
        self._say("The system prompt is set." if text else "There is no system prompt any more.")

    def _chats(self, words: str) -> None:
        if words:
            hits = {hit.chat_id: hit for hit in reversed(self._keeper.store.search(words))}  # the best of each chat
            lines = [f"{hit.chat_id}: {hit.title or 'untitled'}: {_unmarked(hit.snippet)}" for hit in hits.values()]
            lines.reverse()
        else:
            lines = [describe_chat(chat) for chat in self._keeper.chats(LISTED_CHATS)]
        for line in lines[:LISTED_CHATS] or ["There are none."]:
            self._say(line)

    def _open(self, number: str) -> None:
        if not number.isdecimal():
            raise InputError(f"/open needs the number of a chat, not {number!r}; /chats lists them")
        self._chat.open(int(number))
        self._files, self._unanswered = [], ""
        self._say_where()

    def _quit(self, _: str) -> None:
        self._leaving = True

    # ---- what is there

    def _greet(self) -> None:
        target = self._host.target
        if isinstance(target, Path):
            state.remember(last_model=str(target.resolve()))
        self._say(f"You speak with {self._host.name}. /help lists the commands.")
        if "--template" in self._host.loaded.template:  # it was guessed
            self._say(f"Note: the prompt format is {self._host.loaded.template}.")
        if not self._keeper.chats(1):
            self._say(honesty(target.url if isinstance(target, Endpoint) else ""))
        if self._chat.chat_id is not None:
            self._say_where()

    def _say_where(self) -> None:
        """Tell which chat this is, and what was said there last."""
        path = self._chat.path
        self._say(f"This is chat {self._chat.chat_id}: {self._chat.title or 'untitled'}, {len(path)} messages.")
        for message in path[-2:]:
            self._say_message(message)

    def _say_message(self, message: StoredMessage) -> None:
        self._say(f"{YOU if message.role == 'user' else KOALA}{message.content}")


def _unmarked(snippet: str) -> str:
    return snippet.replace(HIT, "").replace(HIT_END, "")
