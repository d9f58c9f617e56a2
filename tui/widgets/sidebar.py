"""The list of chats. It draws only the lines that are seen, and reads only the chats that were scrolled to."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.geometry import Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip
from textual.style import Style

from ..commands import bindings
from ..store import Chat
from ..text import harmless

PAGE = 100
AHEAD = 30  # lines below the last one seen for which chats are read already
MARKS = {"writing": "▸", "waiting": "◷", "draft": "✎", "pinned": "★"}
UNTITLED = "New chat"
NO_CHATS = "  no chats yet"

LoadPage = Callable[[int, int], list[Chat]]


class ChatList(ScrollView, can_focus=True):
    """The chats under headings that say when they were last changed, the pinned ones first.

    `load(limit, offset)` gives the chats. `busy` maps the id of a chat to what its reply does, `open_id` is the chat on
    the screen.
    """

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "chat-list--heading",
        "chat-list--chat",
        "chat-list--open",
        "chat-list--cursor",
        "chat-list--mark",
    }
    DEFAULT_CSS = """
    ChatList {
        scrollbar-size-vertical: 1;
        overflow-x: hidden;
        & > .chat-list--heading { color: $foreground-muted; }
        & > .chat-list--chat { color: $foreground; }
        & > .chat-list--open { color: $primary; background: $panel; text-style: bold; }
        & > .chat-list--mark { color: $accent; }
        & > .chat-list--cursor { background: $primary 25%; }
        &:nocolor > .chat-list--cursor { text-style: reverse; }
        &:ansi > .chat-list--cursor { text-style: reverse; }
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "Up", show=False),
        Binding("down,j", "move(1)", "Down", show=False),
        Binding("pageup", "page(-1)", "Page up", show=False),
        Binding("pagedown", "page(1)", "Page down", show=False),
        Binding("home", "end(-1)", "First", show=False),
        Binding("end", "end(1)", "Last", show=False),
        Binding("enter,space", "open", "Open", show=False),
        *bindings("sidebar"),
    ]

    @dataclass
    class Opened(Message):
        """The user wants to see a chat."""

        chat_id: int

    def __init__(self, load: LoadPage) -> None:
        super().__init__(id="sidebar")
        self._load = load
        self._chats: list[Chat] = []
        self._complete = False
        self._rows: list[Chat | str] = []
        self._cursor: int | None = None  # the id of a chat
        self.open_id: int | None = None
        self.busy: Mapping[int, str] = {}

    # ---- what is in it

    @property
    def cursor_chat(self) -> Chat | None:
        """The chat under the cursor."""
        return next((chat for chat in self._chats if chat.id == self._cursor), None)

    @property
    def titles(self) -> list[str]:
        """The lines, for those that cannot see them."""
        return [row if isinstance(row, str) else harmless(row.title) or UNTITLED for row in self._rows]

    def reload(self) -> None:
        """Read again as many chats as were read."""
        count = max(PAGE, len(self._chats))
        self._chats = self._load(count, 0)
        self._complete = len(self._chats) < count
        self._lay_out()

    def neighbour(self, chat_id: int) -> int | None:
        """Return the id of the chat below another one, or else above it."""
        ids = [chat.id for chat in self._chats]
        if chat_id not in ids or len(ids) < 2:
            return None
        place = ids.index(chat_id)
        return ids[place + 1] if place + 1 < len(ids) else ids[place - 1]

    def put_cursor(self, chat_id: int) -> None:
        """Put the cursor on a chat."""
        self._cursor = chat_id
        self.refresh()

    def show(self, *, open_id: int | None, busy: Mapping[int, str]) -> None:
        """Mark the chat that is open, and those for which the model works."""
        if (open_id, busy) == (self.open_id, self.busy):
            return
        if open_id != self.open_id:
            self._cursor = open_id
        self.open_id, self.busy = open_id, dict(busy)
        self.refresh()

    def _read_on(self) -> None:
        """Read another page where the end of what was read comes near."""
        while not self._complete and self.scroll_offset.y + self.size.height + AHEAD > len(self._rows):
            page = self._load(PAGE, len(self._chats))
            known = {chat.id for chat in self._chats}
            self._chats += [chat for chat in page if chat.id not in known]
            self._complete = len(page) < PAGE
            self._lay_out()

    def _lay_out(self) -> None:
        self._rows = list(_with_headings(self._chats, date.today()))
        width = self.size.width
        self.virtual_size = Size(width, len(self._rows))
        if self._index() < 0:
            self._cursor = next((row.id for row in self._rows if not isinstance(row, str)), None)
        self.refresh()

    # ---- drawing

    def on_resize(self) -> None:
        """Fit the lines to the new width."""
        self._lay_out()
        self._read_on()

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        """Read on where the end comes near."""
        super().watch_scroll_y(old_value, new_value)
        self._read_on()

    def render_line(self, y: int) -> Strip:
        """Draw one line."""
        width = self.size.width
        index = y + self.scroll_offset.y
        base = self.visual_style
        rows = self._rows or [NO_CHATS]
        if index >= len(rows):
            return Strip.blank(width, base.rich_style)
        row = rows[index]
        if isinstance(row, str):
            content = Content(row).stylize(self.get_visual_style("chat-list--heading"))
        else:
            content = self._chat_line(row, width)
            if row.id == self._cursor and self.has_focus:
                look = self.get_visual_style("chat-list--cursor")
                content = content.stylize(Style(background=look.background, reverse=look.reverse))
        return Strip(content.render_segments(base), content.cell_length).adjust_cell_length(width, base.rich_style)

    def _chat_line(self, chat: Chat, width: int) -> Content:
        is_open = chat.id == self.open_id
        title = Content(harmless(chat.title or chat.draft).replace("\n", " ").strip() or UNTITLED)
        title = title.truncate(max(1, width - 4), ellipsis=True, pad=True)
        mark = Content(f"{self._mark(chat) or ' '} ")
        line = Content("▎ " if is_open else "  ") + title
        line = line.stylize(self.get_visual_style("chat-list--open" if is_open else "chat-list--chat"))
        ground = self.get_visual_style("chat-list--open").background if is_open else None
        return line + mark.stylize(
            Style(foreground=self.get_visual_style("chat-list--mark").foreground, background=ground)
        )

    def _mark(self, chat: Chat) -> str:
        doing = self.busy.get(chat.id)
        if doing:
            return MARKS["waiting" if doing == "waiting" else "writing"]
        if chat.draft.strip():
            return MARKS["draft"]
        return MARKS["pinned"] if chat.pinned else ""

    # ---- keys and mouse

    def _index(self) -> int:
        return next((i for i, row in enumerate(self._rows) if not isinstance(row, str) and row.id == self._cursor), -1)

    def _go(self, index: int, step: int) -> None:
        """Put the cursor on the line, or on the next one in the direction that is a chat."""
        index = min(max(index, 0), len(self._rows) - 1)
        while 0 <= index < len(self._rows) and isinstance(self._rows[index], str):
            index += step
        if not 0 <= index < len(self._rows):
            return
        self._cursor = self._rows[index].id
        self.scroll_to_region(Region(0, max(0, index - 1), 1, 3), animate=False)
        self.refresh()

    def action_move(self, step: int) -> None:
        """Go to the chat above or below."""
        self._go(self._index() + step, step)

    def action_page(self, step: int) -> None:
        """Go a screen further."""
        self._go(self._index() + step * max(1, self.size.height - 2), -step)

    def action_end(self, step: int) -> None:
        """Go to the first or last chat that was read."""
        self._go(0 if step < 0 else len(self._rows) - 1, -step)

    def action_open(self) -> None:
        """Open the chat under the cursor."""
        if self._cursor is not None:
            self.post_message(self.Opened(self._cursor))

    def on_click(self, event: events.Click) -> None:
        """Open what was clicked."""
        offset = event.get_content_offset(self)
        if offset is None:
            return
        index = offset.y + self.scroll_offset.y
        if 0 <= index < len(self._rows) and not isinstance(self._rows[index], str):
            self._cursor = self._rows[index].id
            self.refresh()
            self.action_open()


def _with_headings(chats: Iterable[Chat], today: date) -> Iterable[Chat | str]:
    heading = ""
    for chat in chats:
        if chat.messages == 0 and not chat.draft.strip() and not chat.title:
            continue
        group = "Pinned" if chat.pinned else _when(chat.updated, today)
        if group != heading:
            if heading:
                yield ""
            heading = group
            yield heading
        yield chat


def _when(seconds: float, today: date) -> str:
    day = date.fromtimestamp(seconds)
    if day >= today:
        return "Today"
    if day == today - timedelta(days=1):
        return "Yesterday"
    return "Last 7 days" if day > today - timedelta(days=7) else "Older"
