"""The conversation: one widget that draws its own lines, so that a reply being written costs next to nothing."""

import asyncio
import time
import unicodedata
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.color import Color
from textual.content import Content, Span
from textual.filter import LineFilter
from textual.geometry import Offset, Region, Size
from textual.message import Message
from textual.reactive import reactive
from textual.scroll_view import ScrollView
from textual.scrollbar import ScrollBar
from textual.selection import Selection
from textual.strip import Strip
from textual.style import Style
from textual.widget import Widget

from ..markdown.blocks import Run, Runs
from ..markdown.layout import Line
from .entry_lines import Entry, EntryLines
from .transcript_look import CSS, NAMES

__all__ = ["Entry", "Transcript"]

LEFT, RIGHT = 3, 2  # cells beside the text: the bar of a message stands in the middle of the left ones
WIDEST = 116  # cells; longer lines are hard to read
FRAME_SECONDS, LONGEST_FRAME_SECONDS = 0.1, 1.0
# The model and the screen share the processor: drawing may take at most this share of one core.
DRAWING_SHARE = 0.015


class Transcript(ScrollView, can_focus=True):
    """Messages below each other. It follows the end, unless the user has scrolled up.

    Only what can be seen is laid out; the height of everything else is estimated, and what is on the screen stays where
    it is when an estimate turns out to be wrong.
    """

    ALLOW_SELECT = True
    COMPONENT_CLASSES: ClassVar[set[str]] = {f"transcript--{name}" for name in NAMES}
    DEFAULT_CSS = CSS
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "select_by(-1)", "Message above", show=False),
        Binding("down,j", "select_by(1)", "Message below", show=False),
        Binding("home", "select_first", "First message", show=False),
        Binding("end", "select_last", "Last message", show=False),
        *(Binding(str(n), f"copy_block({n})", f"Copy code block {n}", show=False) for n in range(1, 10)),
    ]

    selected: reactive[int | None] = reactive(None, init=False)
    """The key of the selected message."""

    @dataclass
    class Selected(Message):
        """The user has selected the message with this key, or none."""

        key: int | None

    @dataclass
    class CopyBlock(Message):
        """The user wants the code block with this number, whose source is `text`, in the clipboard."""

        number: int
        text: str

    @dataclass
    class SiblingWanted(Message):
        """The user wants to see the version before (-1) or after (1) the one that is shown."""

        key: int
        step: int

    def __init__(self, *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self._views: list[EntryLines] = []
        self._index: dict[int, int] = {}
        self._tops: list[int] = [0]  # of each view, and of what would come after the last; the first `_known` are right
        self._known = 1
        self._following = True
        self._placing = False
        self._thumb = (0, 0)  # length and position of the scrollbar's thumb as it was drawn last
        self._held: tuple[int, int] | None = None  # key of the entry where the selected text begins, and its row then
        self._clicked = 0  # y of the last press of a mouse button
        self._matched: tuple[int, tuple[str, ...]] | None = None
        self._drawn = 0  # counts what makes strips outdated: themes, matches
        self._styles: dict[str, Style] = {}
        self._waiting: set[int] = set()  # keys of what has grown since the last frame
        self._frame: asyncio.TimerHandle | None = None
        self._next_frame = 0.0

    # ---- what is shown

    def show(self, entries: Sequence[Entry]) -> None:
        """Show a whole conversation, from its end."""
        self._views = [EntryLines(entry, self._text_width) for entry in entries]
        self._renumber()
        self._matched = None
        self._waiting.clear()
        self.set_reactive(Transcript.selected, None)
        self._following = True
        self._forget_selection()
        self._lay_out()
        self.refresh()

    def append(self, entry: Entry) -> None:
        """Show one more entry at the end. Whoever has asked something sees it."""
        self._views.append(EntryLines(entry, self._text_width))
        self._index[entry.key] = len(self._views) - 1
        self._tops.append(self._tops[-1])
        self._known = min(self._known, len(self._views))
        if entry.kind == "user":
            self._following = True
        self._lay_out()
        self.refresh()

    def extend_text(self, key: int, text: str) -> None:
        """Append to the text of an entry. It is drawn soon: at once, or when the next frame is due."""
        view = self._view(key)
        if not text:
            return
        if not view.entry.streaming:
            view.entry.streaming = True
            view.renew()
        view.add(text)
        self._waiting.add(key)
        if self._frame is None:
            delay = self._next_frame - time.monotonic()
            if delay <= 0:
                self._draw_frame()
            else:
                self._frame = asyncio.get_running_loop().call_later(delay, self._draw_frame)

    def change(
        self,
        key: int,
        *,
        text: str | None = None,
        speaker: str | None = None,
        note: str | None = None,
        position: int | None = None,
        siblings: int | None = None,
        streaming: bool | None = None,
    ) -> None:
        """Change what is given, at once. `streaming=False` draws the text as a whole."""
        view = self._view(key)
        entry = view.entry
        given = {"text": text, "note": note, "position": position, "siblings": siblings, "streaming": streaming}
        changes = {name: value for name, value in given.items() if value not in (None, getattr(entry, name))}
        for name, value in changes.items():
            setattr(entry, name, value)
        if "text" in changes or changes.get("streaming"):
            view.renew()
        if changes:
            self._waiting.discard(key)
            self._redraw(key, always=True)

    def remove(self, key: int) -> None:
        """Take an entry away."""
        index = self._index[key]
        anchor = self._anchor()
        del self._views[index]
        self._renumber()
        self._forget_selection()
        self._waiting.discard(key)
        if self.selected == key:
            self.selected = None
        at, offset = anchor
        self._lay_out((at - (index < at), 0 if index == at else offset))
        self.refresh()

    def entries(self) -> list[Entry]:
        """Return what is shown."""
        return [view.entry for view in self._views]

    def code_blocks(self, key: int | None = None) -> list[str]:
        """Return the sources of the code blocks of a message: this one, else the selected, else the last reply."""
        key = self.selected if key is None else key
        if key is None:
            key = next((view.entry.key for view in reversed(self._views) if view.entry.kind == "reply"), None)
        return [] if key is None or key not in self._index else self._view(key).code_blocks()

    def jump_to(self, key: int, highlight: str = "") -> None:
        """Scroll to a message and mark the words of `highlight` in it."""
        index = self._index[key]
        words = tuple(_folded(word) for word in highlight.split())
        self._matched = (key, words) if words else None
        self._drawn += 1
        view = self._views[index]
        if not view.laid_out:
            self._update(index)
        hit = max(
            view.body, key=lambda at: sum(bool(_matches(view.line(at).text, [word])) for word in words), default=0
        )
        self._following = False
        self._lay_out((index, hit - self.size.height // 3 if words and hit in view.body else -1))
        self._following = self.scroll_y >= self.max_scroll_y
        self.selected = key
        self.refresh()

    def _view(self, key: int) -> EntryLines:
        return self._views[self._index[key]]

    def _renumber(self) -> None:
        self._index = {view.entry.key: index for index, view in enumerate(self._views)}
        self._tops = [0] * (len(self._views) + 1)
        self._known = 1

    # ---- where everything is

    @property
    def _text_width(self) -> int:
        return max(1, min(self.size.width - LEFT - RIGHT, WIDEST))

    def _top(self, index: int) -> int:
        """Return the line at which the entry begins."""
        if index >= self._known:
            start = self._known - 1
            heights = (view.height for view in self._views[start:])
            self._tops[start:] = accumulate(heights, initial=self._tops[start])
            self._known = len(self._tops)
        return self._tops[index]

    def _at(self, y: int) -> int:
        """Return the index of the entry to which the line belongs."""
        self._top(len(self._views))
        return min(max(0, bisect_right(self._tops, y) - 1), len(self._views) - 1)

    def _update(self, index: int) -> int:
        """Lay out an entry; return the index of its first line that changed."""
        view = self._views[index]
        before = view.height
        changed = view.update()
        if view.height != before:
            self._known = min(self._known, index + 1)
        return changed

    def _anchor(self) -> tuple[int, int]:
        """Return the entry that must stay where it is, and how many lines of it are above the screen."""
        if not self._views:
            return 0, 0
        y = int(self.scroll_y)
        first = index = self._at(y)
        if self._top(first + 1) == y + 1 < self._top(len(self._views)):
            index += 1  # of the first one, only the empty line at its end can be seen
        while index < len(self._views) and self._top(index) < y + self.size.height:
            if self._views[index].laid_out:
                return index, y - self._top(index)
            index += 1
        return first, y - self._top(first)

    def _lay_out(self, anchor: tuple[int, int] | None = None) -> None:
        """Lay out what can be seen, with the anchor (the end, while that is followed) where it was."""
        if not self.is_mounted or not self.size:
            return
        height, views = self.size.height, self._views
        if self._following or not views:
            room = height
            for index in range(len(views) - 1, -1, -1):
                if not views[index].laid_out:
                    self._update(index)
                room -= views[index].height
                if room <= 0:
                    break
            self._place(self._top(len(views)))
            return
        index, offset = anchor or self._anchor()
        index = min(index, len(views) - 1)
        if not views[index].laid_out:
            before = max(1, views[index].height)
            self._update(index)
            if offset > 0:
                offset = offset * views[index].height // before
        # Downwards from the anchor, then upwards: the end may leave room that has to be filled from above.
        bottom = index
        while bottom < len(views) and self._top(bottom) < self._top(index) + offset + height:
            if not views[bottom].laid_out:
                self._update(bottom)
            bottom += 1
        while True:
            y = max(0, min(self._top(index) + offset, self._top(len(views)) - height))
            first = self._at(y)
            missing = [at for at in range(first, index) if not views[at].laid_out]
            if not missing:
                break
            self._update(missing[-1])
        self._place(y)

    def _place(self, y: int) -> None:
        """Scroll to the line, without a layout of the whole screen."""
        extent = Size(max(0, self.size.width - self.scrollbar_size_vertical), self._top(len(self._views)))
        self._placing = True
        if extent != self.virtual_size:
            self.set_reactive(Widget.virtual_size, extent)
        self.scroll_y = self.scroll_target_y = y
        self._placing = False
        self._move_scrollbar(1)

    def _move_scrollbar(self, steps_a_cell: int) -> None:
        """Tell the scrollbar where we are, and have it drawn where it moves by a step: it is costly."""
        if not self.show_vertical_scrollbar:
            return
        bar, height, total = self.vertical_scrollbar, self.size.height, max(1, self.virtual_size.height)
        bar.set_reactive(ScrollBar.window_virtual_size, total)
        bar.set_reactive(ScrollBar.position, self.scroll_y)
        steps = steps_a_cell * height
        thumb = (min(total, height) * steps // total, int(self.scroll_y * steps) // total)
        if thumb != self._thumb:
            self._thumb = thumb
            bar.refresh()

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        """Lay out what has come into sight."""
        if round(old_value) != round(new_value):
            self.refresh(self.size.region)
        if self._placing:
            return
        self._move_scrollbar(8)
        if self._views:
            self._following = new_value >= self.max_scroll_y
            if not self._following:
                self._lay_out()

    def _scroll_to(self, *args, **options) -> bool:
        # No animation: each step would draw the whole screen, and heights may change on the way.
        return super()._scroll_to(*args, **{**options, "animate": False})

    def on_resize(self, event: events.Resize) -> None:
        """Lay everything out for the new width, when it is needed; what is on top, or the end, stays in its place."""
        width = self._text_width
        index, offset = self._anchor()
        if self._views and self._views[index].width != width:
            height = max(1, self._views[index].height)
            for view in self._views:
                view.resize(width)
            self._known = 1
            self._forget_selection()
            self._update(index)
            if offset > 0:
                offset = offset * self._views[index].height // height
        self._lay_out((index, offset))
        self.refresh()

    # ---- drawing what grows

    def _draw_frame(self) -> None:
        """Draw what has come since the last frame, and find out when the next one is due."""
        started = time.thread_time()
        self._frame = None
        self._next_frame = time.monotonic() + FRAME_SECONDS
        for key in self._waiting & self._index.keys():
            self._redraw(key)
        self._waiting.clear()
        self.call_after_refresh(self._frame_drawn, started)

    def _frame_drawn(self, started: float) -> None:
        cost = time.thread_time() - started
        pause = min(max(cost / DRAWING_SHARE, FRAME_SECONDS), LONGEST_FRAME_SECONDS)
        self._next_frame = time.monotonic() + pause - cost

    def on_unmount(self) -> None:
        """Draw nothing any more."""
        if self._frame is not None:
            self._frame.cancel()

    def _redraw(self, key: int, *, always: bool = False) -> None:
        """Lay out an entry that has changed, and draw the lines of it that are not as they were."""
        index = self._index[key]
        view = self._views[index]
        if not self._following and not view.laid_out and self._top(index) >= self.scroll_y + self.size.height:
            return  # it will be laid out when it comes into sight
        anchor, before, scrolled = self._anchor(), view.height, self.scroll_y
        top = self._top(index)
        changed = self._update(index)
        if self._following or view.height != before:
            self._lay_out(anchor)
        if always or self.scroll_y != scrolled or (view.height != before and index + 1 < len(self._views)):
            self.refresh()
            return
        last = max(before, view.height)
        if last > changed:
            self.refresh_lines(top + changed, last - changed)

    def notify_style_update(self) -> None:
        """Draw everything anew: the theme is another one."""
        super().notify_style_update()
        self._styles.clear()
        self._drawn += 1

    def render_lines(self, crop: Region) -> list[Strip]:
        """Return lines of the screen, without a detour over borders and padding where there are none.

        The strips of lines that did not change are the same objects, so that Textual has nothing to do for them.
        """
        if self.styles.gutter:
            return super().render_lines(crop)
        filters = tuple(self.get_line_filters())
        width, selection = self.size.width, self.text_selection
        strips = [self._strip(y, width, selection, filters) for y in crop.line_range]
        if crop.column_span != (0, width):
            strips = [strip.crop(*crop.column_span) for strip in strips]
        return strips

    def render_line(self, y: int) -> Strip:
        """Return a line of the screen."""
        return self._strip(y, self.size.width, self.text_selection, ())

    def _strip(self, y: int, width: int, selection: Selection | None, filters: tuple[LineFilter, ...]) -> Strip:
        at = y + int(self.scroll_y)
        view = self._views[self._at(at)] if self._views and at < self._top(len(self._views)) else None
        if view is None or not view.laid_out:
            return _filtered(Strip.blank(width, self._style("").rich_style), filters, self.background_colors[1])
        line = view.line(at - self._top(self._at(at)))
        row = at - self._origin
        span = selection.get_span(row) if selection is not None else None
        state = (self._drawn, view.entry.key == self.selected, width, row, span, filters)
        if line.strip is None or line.strip[0] != state:
            strip = self._draw(view, line, span, width).apply_offsets(0, row)
            line.strip = (state, _filtered(strip, filters, self.background_colors[1]))
        return line.strip[1]

    def _draw(self, view: EntryLines, line: Line, span: tuple[int, int] | None, width: int) -> Strip:
        pieces = [*self._margin(view, line), *line.pieces]
        if self._matched is not None and self._matched[0] == view.entry.key and not view.is_head(line):
            for start, end in _matches(line.text, self._matched[1]):
                pieces = _overlaid(pieces, LEFT + start, LEFT + end, "match")
        if span is not None:
            start, end = span
            start = max(start, LEFT + line.lead)
            length = sum(len(piece.text) for piece in pieces)
            pieces = _overlaid(pieces, start, length if end < 0 else end, "selection")
        text = "".join(piece.text for piece in pieces)
        content = Content(text, strip_control_codes=False)
        used = content.cell_length
        fill = max(0, LEFT + view.width - used) if line.fill else 0
        if fill:
            pieces.append(Run(" " * fill, line.fill))
        rest = max(0, width - used - fill)
        spans, at = [], 0
        for text, style in pieces:
            spans.append(Span(at, at + len(text), self._style(style)))
            at += len(text)
        text = "".join(piece.text for piece in pieces) + " " * rest
        spans.append(Span(at, at + rest, self._style("")))
        segments = Content(text, spans=spans, strip_control_codes=False).render_segments()
        return Strip(segments, used + fill + rest).adjust_cell_length(width)

    def _margin(self, view: EntryLines, line: Line) -> Runs:
        """Return what stands left of a line: the bar of its message. The selected one can be told without colour."""
        entry = view.entry
        if line is view.line(view.height - 1):
            return [Run("   ")]
        under = "user" if entry.kind == "user" else ""
        if entry.key == self.selected:
            return [Run(" "), Run("┃", f"{under} selected-bar"), Run(" ", under)]
        if entry.kind in ("user", "notice"):
            return [Run(" "), Run("▎", f"{under} {entry.kind}-bar"), Run(" ", under)]
        return [Run("   ")]

    def _style(self, names: str) -> Style:
        style = self._styles.get(names)
        if style is None:
            style = self.get_visual_style(*(f"transcript--{name}" for name in names.split() if name in NAMES))
            self._styles[names] = style
        return style

    # ---- selecting text

    def get_selection(self, selection: Selection) -> tuple[str, str] | None:
        """Return the selected text, without bars and without the breaks of lines that were merely full."""
        if selection.start is None and selection.end is None:
            return "\n\n".join(view.entry.text for view in self._views), "\n"
        end_of_text = self._top(len(self._views))
        first = 0 if selection.start is None else selection.start.y + self._origin
        last = end_of_text - 1 if selection.end is None else selection.end.y + self._origin
        text = ""
        for at in range(max(0, first), min(last, end_of_text - 1) + 1):
            index = self._at(at)
            if not self._views[index].laid_out:
                continue
            line = self._views[index].line(at - self._top(index))
            start, end = selection.get_span(at - self._origin) or (0, 0)
            whole = line.text
            part = whole[max(start - LEFT, line.lead, 0) : None if end < 0 else max(0, end - LEFT)]
            if at > first:
                text = text.rstrip(" ") + ("\n" if line.glue is None else line.glue)
            text += part
        return text.rstrip(), "\n"

    def text_select_all(self) -> None:
        """Select the text of the message that was clicked."""
        if not self._views:
            return
        index = self._at(self._clicked)
        start = self._top(index) - self._origin
        self.screen.selections = {
            self: Selection(Offset(0, start), Offset(self.size.width, start + self._views[index].height - 1))
        }

    def selection_updated(self, selection: Selection | None) -> None:
        """Hold on to the entry where the selected text begins, so that it moves together with its text."""
        super().selection_updated(selection)
        if selection is None:
            self._held = None
        elif self._held is None and self._views and (corner := selection.start or selection.end) is not None:
            index = self._at(corner.y)
            self._held = (self._views[index].entry.key, self._top(index))

    @property
    def _origin(self) -> int:
        """By how many lines the selected text is lower than it was when it was selected."""
        if self._held is None or self._held[0] not in self._index:
            return 0
        key, row = self._held
        return self._top(self._index[key]) - row

    def _forget_selection(self) -> None:
        self._held = None
        if self.is_attached and self in self.screen.selections:
            self.screen.clear_selection()

    # ---- mouse and keys

    def on_mouse_down(self, event: events.MouseDown) -> None:
        """Remember where, for a double click."""
        self._clicked = event.y + int(self.scroll_y)

    def on_click(self, event: events.Click) -> None:
        """Carry out what was clicked on; else select the message."""
        at = event.y + int(self.scroll_y)
        if not self._views or at >= self._top(len(self._views)) or event.chain > 1:
            return
        index = self._at(at)
        view = self._views[index]
        if not view.laid_out:
            return
        for action in view.line(at - self._top(index)).actions:
            if action.start <= event.x - LEFT < action.end:
                if action.name == "copy":
                    self._copy(view.entry.key, action.value)
                else:
                    self.post_message(self.SiblingWanted(view.entry.key, action.value))
                return
        if view.entry.kind != "marker":
            self.selected = view.entry.key

    def watch_selected(self, key: int | None) -> None:
        """Mark the message, and tell."""
        self.refresh()
        self.post_message(self.Selected(key))

    def action_select_by(self, step: int) -> None:
        """Select the next message in that direction; below the last one none is selected, and the end is shown."""
        candidates = [index for index, view in enumerate(self._views) if view.entry.kind != "marker"]
        if not candidates:
            return
        if self.selected is None:
            if step < 0:
                bottom = self._at(int(self.scroll_y) + self.size.height - 1)
                self._select(max((index for index in candidates if index <= bottom), default=candidates[0]))
            return
        current = self._index[self.selected]
        further = [index for index in candidates if (index - current) * step > 0]
        if further:
            self._select(min(further) if step > 0 else max(further))
        elif step > 0:
            self.selected = None
            self.scroll_end(animate=False)

    def action_select_first(self) -> None:
        """Select the first message."""
        self._select_edge(self._views)

    def action_select_last(self) -> None:
        """Select the last message."""
        self._select_edge(reversed(self._views))
        self.scroll_end(animate=False)

    def _select_edge(self, views: Iterable[EntryLines]) -> None:
        view = next((view for view in views if view.entry.kind != "marker"), None)
        if view is not None:
            self._select(self._index[view.entry.key])

    def _select(self, index: int) -> None:
        """Select a message and bring it into sight: all of it, or its beginning."""
        view = self._views[index]
        if not view.laid_out:
            anchor = self._anchor()
            self._update(index)
            self._lay_out(anchor)
        top, height = self._top(index), view.height
        bottom = top + height
        y = int(self.scroll_y)
        if top < y or height > self.size.height:
            self._following = False
            self._lay_out((index, 0))
        elif bottom > y + self.size.height:
            self._following = False
            self._lay_out((index, height - self.size.height))
        self._following = self.scroll_y >= self.max_scroll_y
        self.selected = view.entry.key

    def action_copy_block(self, number: int) -> None:
        """Copy a code block of the selected message, or of the last reply."""
        self._copy(None, number)

    def _copy(self, key: int | None, number: int) -> None:
        blocks = self.code_blocks(key)
        if number <= len(blocks):
            self.post_message(self.CopyBlock(number, blocks[number - 1]))


def _filtered(strip: Strip, filters: Iterable[LineFilter], background: Color) -> Strip:
    for line_filter in filters:
        strip = strip.apply_filter(line_filter, background)
    return strip


def _overlaid(pieces: Runs, start: int, end: int, style: str) -> Runs:
    """Return the pieces with one more style on the characters from `start` to `end`."""
    result: Runs = []
    at = 0
    for text, styles in pieces:
        left, right = max(0, min(len(text), start - at)), max(0, min(len(text), end - at))
        for part, added in ((text[:left], ""), (text[left:right], style), (text[max(left, right) :], "")):
            if part:
                result.append(Run(part, f"{styles} {added}".strip()))
        at += len(text)
    return result


def _folded(text: str) -> str:
    """Return the text without case and accents, character by character, so that positions stay the same."""
    if text.isascii():
        return text.lower()
    return "".join(unicodedata.normalize("NFD", character)[0].lower()[:1] or character for character in text)


def _matches(text: str, words: Iterable[str]) -> list[tuple[int, int]]:
    """Return where words begin with one of these, which are folded."""
    folded, found = _folded(text), []
    for word in words:
        start = folded.find(word)
        while start >= 0:
            if start == 0 or not folded[start - 1].isalnum() or not word[0].isalnum():
                found.append((start, start + len(word)))
            start = folded.find(word, start + len(word))
    return found
