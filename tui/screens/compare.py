"""Two models side by side: the same message goes to both."""

import asyncio
import time
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Button, Static

from inference.load_options import LoadOptions
from inference.sampling import Sampling

from ..comparison import Comparison, Side
from ..entries import YOU, entries, marker
from ..model_facts import has_room_beside
from ..model_host import ModelHost, Target
from ..replies import Reply
from ..text import harmless
from ..widgets.composer import Composer
from ..widgets.transcript import Entry, Transcript
from .models import ModelsScreen
from .page import Page, button
from .sampling import SamplingScreen

PLACES = ("left", "right")
ENDED_EARLY = {"cancelled": "stopped", "length": "cut at max tokens", "context": "cut: the context is full"}
SAY_SECONDS = 0.5
HOW = "the chat goes on with the left answers, unless you keep the right ones"


def _while_shown(method: Callable[..., None]) -> Callable[..., None]:
    """Let a method of a column do nothing once the screen was left: replies that end then are stored, not shown."""

    @wraps(method)
    def do(self: "Column", *arguments: Any) -> None:
        if self.is_attached and self.children:
            method(self, *arguments)

    return do


class Column(Vertical):
    """One side: the model's name, the conversation, and below it how fast it is. It watches its side's replies."""

    def __init__(self, place: str) -> None:
        super().__init__(id=place, classes="column")
        self._place = place
        self._host: ModelHost | None = None
        self._said = 0.0

    def compose(self) -> ComposeResult:
        """Lay out the column."""
        yield Static(classes="model", markup=False)
        yield Transcript()
        with Horizontal(classes="below"):
            yield Static(classes="stats", markup=False)
            yield button(f"Keep {self._place}", id=f"keep-{self._place}")

    @property
    def transcript(self) -> Transcript:
        """What was said."""
        return self.query_one(Transcript)

    def begin(self, host: ModelHost) -> None:
        """Stand for this model from now on."""
        self._host = host
        self.show_name()

    @_while_shown
    def show_name(self) -> None:
        """Show the model's name, which may be known only once it is loaded."""
        quantization = self._host.header.quantization if self._host.header is not None else ""
        name = " · ".join(filter(None, (self._host.name, quantization)))
        self.query_one(".model", Static).update(harmless(name).replace("\n", " "))

    @_while_shown
    def say(self, text: str) -> None:
        """Show a line below the conversation."""
        self._said = time.monotonic()
        self.query_one(".stats", Static).update(Content(harmless(text).replace("\n", " ")))

    # ---- what the replies do

    def side_waits(self) -> None:
        """Say so."""
        self.say("waits until the left one has answered")

    @_while_shown
    def reply_began(self, reply: Reply) -> None:
        """Show the question and the beginning of the reply."""
        asked = reply.path[-1]
        if all(entry.key != asked.id for entry in self.transcript.entries()):
            self.transcript.append(Entry(asked.id, "user", asked.content, YOU))
        self.transcript.append(Entry(reply.message_id, "reply", "", harmless(self._host.name), streaming=True))

    @_while_shown
    def reply_changed(self, reply: Reply) -> None:
        """Say what it does."""
        self.show_name()
        self.say(f"{reply.status} …")

    @_while_shown
    def reply_wrote(self, reply: Reply, text: str) -> None:
        """Show more of it."""
        self.transcript.extend_text(reply.message_id, text)
        if time.monotonic() - self._said >= SAY_SECONDS:
            self.say(f"writing … {reply.tokens_per_second:.1f} tok/s")

    @_while_shown
    def reply_folded(self, reply: Reply) -> None:
        """Mark that the model sees less."""
        self.transcript.change(reply.message_id, note=marker(reply.folded))

    @_while_shown
    def reply_ended(self, reply: Reply) -> None:
        """Show it as a whole, and how fast it was; a question without an answer is not shown any more."""
        self.show_name()
        problem = f"{reply.error}" if reply.error is not None else ""
        if reply.given_back:
            shown = {entry.key for entry in self.transcript.entries()}
            for number in {reply.path[-1].id, reply.message_id} & shown:
                self.transcript.remove(number)
            self.say(problem or "stopped before the first word")
            return
        note = marker(reply.folded) if reply.folded else ""
        self.transcript.change(reply.message_id, note=note, streaming=False)
        self.say(f"interrupted: {problem}" if problem else _stats(reply))

    def reply_crashed(self, error: Exception) -> None:
        """Leave it to the app."""
        self.app._handle_exception(error)


def _stats(reply: Reply) -> str:
    finished = reply.finished
    first, tokens = finished.time_to_first_token, finished.completion_tokens
    facts = [
        ENDED_EARLY.get(finished.reason),
        f"{finished.tokens_per_second:.1f} tok/s" if finished.tokens_per_second else None,
        f"{1000 * first:.0f} ms to first" if first is not None and first < 1 else None,
        f"{first:.1f} s to first" if first is not None and first >= 1 else None,
        f"{tokens:,} token{'' if tokens == 1 else 's'}",
    ]
    return " · ".join(filter(None, facts))


class CompareScreen(Page):
    """Two columns, below each other where it is narrow, and one composer for both."""

    HEADING = "Compare"
    CSS_PATH = ["page.tcss", "compare.tcss"]  # noqa: RUF012 - the name and the type are Textual's
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+l", "keep('left')", "keep left", key_display="Ctrl+L", priority=True),
        Binding("ctrl+r", "keep('right')", "keep right", key_display="Ctrl+R", priority=True),
        Binding("ctrl+o", "choose", "second model", key_display="Ctrl+O", priority=True),
        Binding("ctrl+s", "settings", "its settings", key_display="Ctrl+S", priority=True),
        Binding("ctrl+t", "together", "both at once", key_display="Ctrl+T", priority=True),
    ]

    def __init__(self) -> None:
        super().__init__()
        self.comparison: Comparison | None = None
        self._sampling: Sampling | None = None  # of the second model

    def content(self) -> Iterable[Widget]:
        """Yield the columns and the composer."""
        with Horizontal(id="columns"):
            yield Column("left")
            yield Column("right")
        yield Composer("The same message to both …", self.app.store.history)

    def on_mount(self) -> None:
        """Show what was said so far, and ask for the second model."""
        self.summarize(HOW)
        path = self.app.chat.path
        for place in PLACES:
            self._column(place).transcript.show(entries(path, folded=self.app.chat.folded))
        self._column("left").begin(self.app.host)
        self._column("right").say("Ctrl+O chooses the second model")
        self._sampling = self.app.chat_settings().sampling
        self.query_one(Composer).focus()
        self.action_choose()

    def _column(self, place: str) -> Column:
        return self.query_one(f"#{place}", Column)

    # ---- the second model

    def action_choose(self) -> None:
        """Choose the second model."""
        if self._is_busy():
            return
        self.app.push_screen(ModelsScreen("The second model", self._take))

    def _take(self, target: Target, options: LoadOptions) -> None:
        self.run_worker(self._begin(target, options), group="second model")

    async def _begin(self, target: Target, options: LoadOptions) -> None:
        app = self.app
        before, column = self.comparison, self._column("right")
        path = app.chat.path
        if before is not None:
            path = before.left.path
            await before.close()
            column.transcript.show(entries(path))
        host = app.host.another(target, options)
        host.changed = column.show_name
        left = Side(app.keeper, app.host, app.chat_settings().sampling, path, self._column("left"))
        right = Side(app.keeper, host, self._sampling, path, column)
        self.comparison = Comparison(app.keeper, left, right, app.chat_settings().system)
        self.comparison.chat_id = before.chat_id if before is not None else None
        column.begin(host)
        column.say("")
        self.comparison.in_turn = not await asyncio.to_thread(has_room_beside, app.host, target, options)
        if self.comparison.in_turn:
            column.say("not enough memory for both: each is loaded when it is its turn")
        else:
            await host.load()
            if host.error is not None:
                column.say(str(host.error))

    def action_settings(self) -> None:
        """Change how the second model chooses its words."""
        if not self._is_busy():
            self.app.push_screen(SamplingScreen(self._sampling), self._take_settings)

    def _take_settings(self, sampling: Sampling | None) -> None:
        if sampling is not None:
            self._sampling = sampling
            if self.comparison is not None:
                self.comparison.right.sampling = sampling

    def action_together(self) -> None:
        """Have both answer at once, or one after the other."""
        comparison = self.comparison
        if comparison is None or self._is_busy():
            return
        if comparison.in_turn:
            self.app.say("There is not enough memory for both: they are loaded and answer in turn.", "warning")
            return
        comparison.together = not comparison.together
        self.app.say("Both answer at once." if comparison.together else "One answers after the other.")

    # ---- what the user does

    def on_composer_submitted(self, event: Composer.Submitted) -> None:
        """Ask both."""
        comparison = self.comparison
        if comparison is None or self._is_busy():
            self.query_one(Composer).put_back(event.text)
            if comparison is None:
                self.action_choose()
        else:
            task = comparison.ask(self.app.chat.ensure(), event.text)
            self.run_worker(self._follow(task, event.text), group="asking")

    async def _follow(self, task: "asyncio.Task[bool]", text: str) -> None:
        if not await task:
            self.query_one(Composer).put_back(text)
        self.app.note_trouble(self.app.keeper.trouble)

    def on_composer_tab_pressed(self) -> None:
        """Go on to the next field."""
        self.focus_next()

    def on_composer_help_wanted(self) -> None:
        """Show the help."""
        self.app.action_help()

    def on_transcript_copy_block(self, event: Transcript.CopyBlock) -> None:
        """Copy a code block."""
        self.run_worker(self.app.copy_text(event.text, f"code block {event.number}"))

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """Keep the answers of a side."""
        self.action_keep((event.button.id or "").removeprefix("keep-"))

    def action_keep(self, place: str) -> None:
        """Let the chat go on with this side's answers, and go back."""
        if self.comparison is None or self.comparison.chat_id is None:
            self.app.say("There is no answer to keep yet.")
        else:
            self.run_worker(self._keep(getattr(self.comparison, place)), group="keeping", exclusive=True)

    async def _keep(self, side: Side) -> None:
        await self.comparison.keep(side)
        self._leave()

    def action_leave(self) -> None:
        """Stop the answers; without any, go back."""
        if self.comparison is not None and self.comparison.busy:
            self.comparison.stop()
        else:
            self._leave()

    def _leave(self) -> None:
        text = self.query_one(Composer).text
        if self.comparison is not None and self.comparison.chat_id is not None:
            self.app.open_chat(self.comparison.chat_id)
        if text.strip():
            self.app.screen_of_chats.composer.put_back(text)
        self.dismiss()

    def _is_busy(self) -> bool:
        """Return whether something is being answered, and say so."""
        busy = self.app.chat.reply is not None or (self.comparison is not None and self.comparison.busy)
        if busy:
            self.app.say("An answer is still being written; Esc stops it.", "warning")
        return busy

    async def on_unmount(self) -> None:
        """Let go of the second model, and have the first one back."""
        if self.comparison is not None:
            await self.comparison.close()
            if self.comparison.in_turn:
                self.app.run_worker(self.app.host.load(), group="model")
