"""Search as one types, over everything that was ever said."""

import asyncio
from collections.abc import Iterable, Sequence
from datetime import datetime

from textual.binding import Binding
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from ..store import Hit, StoreError
from ..text import harmless
from ..widgets.sidebar import UNTITLED
from .dialog import Dialog

LIMIT = 50
BEGIN, END = "\x02", "\x03"
WHO = {"user": "You", "assistant": "Reply", "": "Title"}


class SearchScreen(Dialog[None]):
    """A field and the hits under it. Enter opens the chat at the hit."""

    HEADING = "Search"
    DEFAULT_CSS = """
    SearchScreen {
        & > Vertical { height: 80%; }
        & OptionList { height: 1fr; margin-top: 1; padding: 0; border: none; background: $surface; }
        & OptionList { scrollbar-size-vertical: 1; }
        & #search-foot { height: 1; }
    }
    """
    BINDINGS = [  # noqa: RUF012
        Binding("up", "move(-1)", "Up", show=False, priority=True),
        Binding("down", "move(1)", "Down", show=False, priority=True),
        Binding("pageup", "move(-8)", "Page up", show=False, priority=True),
        Binding("pagedown", "move(8)", "Page down", show=False, priority=True),
    ]

    def __init__(self, text: str = "") -> None:
        super().__init__()
        self._text = text
        self._hits: Sequence[Hit] = ()

    def content(self) -> Iterable[Widget]:
        """Yield field, hits and foot."""
        yield Input(
            self._text, placeholder="words that were said; the last one may be only begun", select_on_focus=False
        )
        hits = OptionList(markup=False)
        hits.can_focus = False
        yield hits
        yield Static(id="search-foot", classes="muted", markup=False)

    def on_mount(self) -> None:
        """Search for what was given."""
        self.query_one(Input).focus()
        self._look_for(self._text)

    def on_input_changed(self, event: Input.Changed) -> None:
        """Search for what is there by now."""
        self._look_for(event.value)

    def _look_for(self, text: str) -> None:
        self.run_worker(self._search(text), group="search", exclusive=True)

    async def _search(self, text: str) -> None:
        try:
            hits = await asyncio.to_thread(self.app.store.search, text, LIMIT) if text.strip() else []
        except StoreError as error:
            self._say(str(error))
            return
        more = len(hits) == LIMIT
        said = {hit.chat_id for hit in hits if hit.message_id is not None}
        # Most titles are the first words of the chat, which are found as such.
        hits = self._hits = [hit for hit in hits if hit.message_id is not None or hit.chat_id not in said]
        options = self.query_one(OptionList)
        options.clear_options()
        options.add_options([Option(_lines(hit)) for hit in hits])
        if hits:
            options.highlighted = 0
        count = f"the best {len(hits)}" if more else f"{len(hits)} found"
        self._say(f"{count} · ↑↓ choose · Enter opens · Esc leaves" if text.strip() else "Esc leaves")

    def _say(self, text: str) -> None:
        self.query_one("#search-foot", Static).update(harmless(text))

    def action_move(self, step: int) -> None:
        """Go to another hit."""
        options = self.query_one(OptionList)
        if self._hits:
            at = options.highlighted if options.highlighted is not None else 0
            options.highlighted = min(max(at + step, 0), len(self._hits) - 1)

    def on_input_submitted(self) -> None:
        """Open the hit."""
        at = self.query_one(OptionList).highlighted
        if at is not None and at < len(self._hits):
            self._open(self._hits[at])

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """Open what was clicked."""
        self._open(self._hits[event.option_index])

    def _open(self, hit: Hit) -> None:
        self.dismiss(None)
        self.app.open_chat(hit.chat_id, hit.message_id, self.query_one(Input).value.strip())


def _lines(hit: Hit) -> Content:
    """Return a hit in two lines: where it is, and what was said there."""
    day = datetime.fromtimestamp(hit.created).strftime("%Y-%m-%d")
    title = harmless(hit.title).replace("\n", " ") or UNTITLED
    head = Content.assemble((title, "bold"), (f"  {WHO.get(hit.role, hit.role)} · {day}", "$foreground-muted"))
    return Content.assemble(head, "\n", _marked(hit.snippet), "\n")


def _marked(snippet: str) -> Content:
    parts: list[Content | str] = []
    for index, part in enumerate(snippet.split(BEGIN)):
        inside, end, outside = part.partition(END)
        if index and end:
            parts += [Content.styled(harmless(inside), "bold $accent"), harmless(outside)]
        else:
            parts.append(harmless(part.replace(END, "")))
    return Content.assemble(*parts)
