import asyncio
import random
import time

import pytest
from textual.app import App, ComposeResult
from textual.widgets import Input

from tests.tui.conftest import until
from tui.theme import KOALA_THEME
from tui.widgets import transcript as module
from tui.widgets.transcript import Entry, Transcript

REPLY = """\
Here is *how*, with a [link](http://a.b):

```python
print("one")
```

- first
- second, which is long enough to need more than one line on a narrow screen

```
two
```
"""


class TranscriptApp(App):
    """A transcript above a text field; keeps the messages that it posts."""

    CSS = "Input { height: 3; }"

    def __init__(self) -> None:
        super().__init__()
        self.posted = []
        self.register_theme(KOALA_THEME)
        self.theme = KOALA_THEME.name

    def compose(self) -> ComposeResult:
        yield Transcript()
        yield Input()

    def on_transcript_selected(self, event: Transcript.Selected) -> None:
        self.posted.append(event)

    on_transcript_copy_block = on_transcript_sibling_wanted = on_transcript_selected


def lines_of(app: App) -> list[str]:
    """What the transcript shows, without the text field and the scrollbar."""
    strips = app.screen._compositor.render_strips()[: app.query_one(Transcript).size.height]
    return ["".join(segment.text for segment in strip)[:-1].rstrip() for strip in strips]


def shown(app: App) -> str:
    return "\n".join(lines_of(app))


def chat(count: int, reply: str = REPLY) -> list[Entry]:
    """A conversation in which every message can be told from the others."""
    return [
        Entry(n, "user", f"question {n}", speaker="You")
        if n % 2
        else Entry(n, "reply", f"answer {n}\n\n{reply}", "Koala")
        for n in range(1, count + 1)
    ]


def lines_of_entry(transcript: Transcript) -> list[str]:
    view = transcript._views[0]
    return [view.line(index).text for index in range(view.height)]


def at(app: App, text: str) -> tuple[int, int]:
    """Where the text stands on the screen."""
    for y, line in enumerate(lines_of(app)):
        if text in line:
            return line.index(text), y
    raise AssertionError(f"{text!r} is not on the screen:\n{shown(app)}")


# ---- what it shows


async def test_each_kind_of_entry():
    app = TranscriptApp()
    async with app.run_test(size=(60, 40)) as pilot:
        app.query_one(Transcript).show(
            [
                Entry(1, "user", "Hello [b]there[/b]\n\n  *indented*", speaker="You", position=1, siblings=2),
                Entry(-1, "marker", "4 earlier messages are folded away"),
                Entry(2, "reply", "**Hi**", speaker="Koala", note="stopped · seed 5", position=2, siblings=3),
                Entry(-2, "notice", "the model's process ended"),
            ]
        )
        await pilot.pause()
        assert lines_of(app)[:13] == [
            " ▎ You  ‹1/2›",
            " ▎ Hello [b]there[/b]",
            " ▎",
            " ▎   *indented*",
            "",
            "   ───────── 4 earlier messages are folded away ──────────",
            "",
            "   Koala  ‹2/3›",
            "   Hi",
            "   stopped · seed 5",
            "",
            " ▎ the model's process ended",
            "",
        ]


async def test_untrusted_text_is_text():
    evil = "\x1b[31m\x07\x9b\u202e[red]x[/red]\x00"
    app = TranscriptApp()
    async with app.run_test(size=(60, 30)) as pilot:
        transcript = app.query_one(Transcript)
        kinds = ("user", "reply", "notice", "marker")
        transcript.show([Entry(n, kind, evil, speaker=evil, note=evil) for n, kind in enumerate(kinds)])
        transcript.extend_text(1, evil)
        transcript.change(1, streaming=False)
        await pilot.pause()
        text = shown(app)
        assert "␛[31m␇" in text and "⟦RLO⟧[red]x[/red]" in text
        assert not {"\x1b", "\x07", "\x9b", "\u202e", "\x00"} & set(text)


@pytest.mark.parametrize("size", [(60, 20), (33, 12), (200, 50), (12, 5), (4, 3)])
async def test_every_line_fills_the_screen_and_no_more(size):
    app = TranscriptApp()
    async with app.run_test(size=size) as pilot:
        transcript = app.query_one(Transcript)
        transcript.show(
            [*chat(4), Entry(9, "user", "日本" * 200), Entry(10, "notice", "x" * 500), Entry(-1, "marker", "m" * 70)]
        )
        transcript.selected = 4
        for _ in range(12):
            await pilot.pause()
            width, height = transcript.size
            assert all(transcript.render_line(y).cell_length == width for y in range(height))
            transcript.scroll_page_up()


# ---- following the end


async def test_it_follows_the_end_unless_one_has_scrolled_up():
    app = TranscriptApp()
    async with app.run_test(size=(60, 20)) as pilot:
        transcript = app.query_one(Transcript)
        transcript.show(chat(10))
        transcript.append(Entry(11, "reply", "", "Koala", streaming=True))
        transcript.extend_text(11, "\n\n".join(f"line {n}" for n in range(40)))
        await until(lambda: "line 39" in shown(app))
        transcript.scroll_to(y=transcript.scroll_y - 10)
        await pilot.pause()
        before = lines_of(app)
        transcript.extend_text(11, "\n\n" + "\n\n".join(f"line {n}" for n in range(40, 80)))
        await until(lambda: transcript.virtual_size.height > transcript.scroll_y + 50)
        await pilot.pause()
        assert lines_of(app) == before
        transcript.scroll_end(animate=False)
        await pilot.pause()
        transcript.extend_text(11, "\n\nthe end")
        await until(lambda: "the end" in shown(app))


async def test_whoever_asks_sees_what_they_asked():
    app = TranscriptApp()
    async with app.run_test(size=(60, 20)) as pilot:
        transcript = app.query_one(Transcript)
        transcript.show(chat(20))
        await pilot.pause()
        transcript.scroll_to(y=5)
        await pilot.pause()
        transcript.append(Entry(21, "notice", "only a notice"))
        await pilot.pause()
        assert "only a notice" not in shown(app)
        transcript.append(Entry(22, "user", "a new question"))
        await pilot.pause()
        assert "a new question" in shown(app)


# ---- long conversations


async def test_only_what_is_seen_is_laid_out():
    app = TranscriptApp()
    async with app.run_test(size=(80, 30)) as pilot:
        transcript = app.query_one(Transcript)
        started = time.perf_counter()
        transcript.show(chat(1000))
        await pilot.pause()
        assert time.perf_counter() - started < 1
        assert "second, which" in shown(app)
        assert sum(view.laid_out for view in transcript._views) < 10


async def test_scrolling_up_is_even_though_heights_were_guessed():
    app = TranscriptApp()
    async with app.run_test(size=(50, 20)) as pilot:
        transcript = app.query_one(Transcript)
        transcript.show(chat(20, reply=REPLY + "| a | b |\n|---|---|\n" + "| 1 | 2 |\n" * 7))
        await pilot.pause()
        seen, before = set(), lines_of(app)
        while transcript.scroll_y > 0:
            transcript.scroll_relative(y=-3)
            await pilot.pause()
            now = lines_of(app)
            if transcript.scroll_y > 0:
                assert now[3:] == before[:-3]
            before = now
            seen |= set(now)
        assert {f"   answer {n}" for n in range(2, 20, 2)} <= seen
        assert {f" ▎ question {n}" for n in range(1, 20, 2)} <= seen


async def test_dragging_the_scrollbar_anywhere_and_back():
    app = TranscriptApp()
    chance = random.Random(1)
    async with app.run_test(size=(50, 20)) as pilot:
        transcript = app.query_one(Transcript)
        transcript.show(chat(200))
        for _ in range(12):
            transcript.scroll_to(y=chance.randint(0, transcript.max_scroll_y))
            await pilot.pause()
            now = lines_of(app)
            assert any(line.strip() for line in now)
            if transcript.scroll_y >= 3:
                transcript.scroll_relative(y=-3)
                await pilot.pause()
                assert lines_of(app)[3:] == now[:-3]
        transcript.scroll_to(y=0)
        await pilot.pause()
        assert lines_of(app)[1] == " ▎ question 1"


async def test_jumping_to_a_hit_marks_its_words():
    app = TranscriptApp()
    async with app.run_test(size=(60, 20)) as pilot:
        transcript = app.query_one(Transcript)
        entries = chat(300)
        entries[99] = Entry(
            100, "reply", "filler\n\n" * 100 + "Where the KÖALA sleeps.\n\n" + "filler\n\n" * 100, "Koala"
        )
        transcript.show(entries)
        await pilot.pause()
        transcript.jump_to(100, "koala sle")
        await pilot.pause()
        _, y = at(app, "KÖALA")
        assert 2 < y < 15 and transcript.selected == 100
        marked = [segment for segment in transcript.render_line(y) if segment.text in ("KÖALA", "sle")]
        assert len(marked) == 2 and all(segment.style.bgcolor != transcript.rich_style.bgcolor for segment in marked)
        transcript.jump_to(7)
        await pilot.pause()
        assert " ┃ question 7" in lines_of(app)


@pytest.mark.parametrize("following", [True, False])
async def test_another_width_keeps_the_place(following):
    app = TranscriptApp()
    async with app.run_test(size=(100, 30)) as pilot:
        transcript = app.query_one(Transcript)
        transcript.show(chat(100))
        await pilot.pause()
        if not following:
            transcript.jump_to(41)
        for width, height in ((50, 25), (120, 40), (100, 30)):
            await pilot.resize_terminal(width, height)
            await pilot.pause()
            top = lines_of(app)
            if following:
                assert top[-2] == "    two" and transcript.scroll_y == transcript.max_scroll_y
            else:
                assert top[2] == " ┃ question 41"


# ---- while a reply is written


async def test_the_first_piece_is_drawn_at_once_and_the_next_ones_together():
    app = TranscriptApp()
    async with app.run_test(size=(60, 20)) as pilot:
        transcript = app.query_one(Transcript)
        transcript.show([Entry(1, "reply", "", "Koala", streaming=True)])
        await pilot.pause()
        frames = []
        original = transcript._redraw
        transcript._redraw = lambda key, **options: (frames.append(key), original(key, **options))
        for n in range(100):
            transcript.extend_text(1, f"word{n} ")
        assert len(frames) == 1
        await until(lambda: "word99" in shown(app))
        assert len(frames) == 2


async def test_only_lines_that_changed_are_drawn():
    app = TranscriptApp()
    async with app.run_test(size=(60, 40)):
        transcript = app.query_one(Transcript)
        transcript.show([*chat(1), Entry(2, "reply", "", "Koala", streaming=True)])
        transcript.extend_text(2, "One paragraph.\n\n- a\n- b\n\n" + "many words " * 7)
        await until(lambda: "many" in shown(app))
        drawn = []
        original = transcript._draw
        transcript._draw = lambda view, line, *rest: (drawn.append(line.text), original(view, line, *rest))[1]
        transcript._next_frame = 0
        transcript.extend_text(2, "and more")
        await until(lambda: "and more" in shown(app))
        assert drawn == [drawn[0]] * len(drawn) and drawn[0].endswith("and more")


async def test_drawing_takes_its_share_of_the_time_only(monkeypatch):
    app = TranscriptApp()
    async with app.run_test(size=(60, 20)) as pilot:
        transcript = app.query_one(Transcript)
        await pilot.pause()
        clock = iter([10.0, 10.004])
        monkeypatch.setattr(module.time, "thread_time", lambda: next(clock))
        now = time.monotonic()
        transcript._frame_drawn(module.time.thread_time())
        assert transcript._next_frame - now == pytest.approx(0.004 / module.DRAWING_SHARE, abs=0.05)
        clock = iter([10.0, 11.0])
        transcript._frame_drawn(module.time.thread_time())
        assert transcript._next_frame - now < 1.1


async def test_in_the_end_it_looks_as_if_it_had_been_there_all_along():
    streamed, whole = TranscriptApp(), TranscriptApp()
    text = REPLY + "\n| a | b |\n|---|---|\n| **x** | y |\n" * 3 + "\n> quote\n" + REPLY
    async with streamed.run_test(size=(60, 20)) as pilot:
        transcript = streamed.query_one(Transcript)
        transcript.show([Entry(1, "reply", "", "Koala", streaming=True)])
        for start in range(0, len(text), 5):
            transcript._next_frame = 0
            transcript.extend_text(1, text[start : start + 5])
        transcript.change(1, streaming=False, note="done")
        await pilot.pause()
        first = lines_of_entry(transcript), shown(streamed)
        assert transcript.code_blocks(1) == ['print("one")', "two", 'print("one")', "two"]
    async with whole.run_test(size=(60, 20)) as pilot:
        transcript = whole.query_one(Transcript)
        transcript.show([Entry(1, "reply", text, "Koala", note="done")])
        await pilot.pause()
        assert (lines_of_entry(transcript), shown(whole)) == first


async def test_a_reply_that_was_stopped_goes_on():
    app = TranscriptApp()
    async with app.run_test(size=(60, 20)) as pilot:
        transcript = app.query_one(Transcript)
        transcript.show([Entry(1, "reply", "- one\n- **tw", "Koala", note="stopped")])
        transcript.change(1, note="", streaming=True)
        transcript.extend_text(1, "o** three")
        transcript.change(1, streaming=False)
        await pilot.pause()
        assert transcript.entries()[0].text == "- one\n- **two** three"
        assert " • two three" in shown(app) and "stopped" not in shown(app)


async def test_entries_change_and_go():
    app = TranscriptApp()
    async with app.run_test(size=(60, 30)) as pilot:
        transcript = app.query_one(Transcript)
        transcript.show(chat(3, reply=""))
        transcript.change(2, text="*another* answer", note="seed 7", position=2, siblings=2)
        await pilot.pause()
        assert "   Koala  ‹2/2›\n   another answer\n   seed 7" in shown(app)
        transcript.selected = 2
        transcript.remove(2)
        await pilot.pause()
        assert "answer" not in shown(app) and transcript.selected is None
        assert [entry.key for entry in transcript.entries()] == [1, 3]
        transcript.extend_text(3, " more")
        assert transcript.entries()[1].text == "question 3 more"
        transcript.remove(1)
        transcript.remove(3)
        await pilot.pause()
        assert shown(app).strip() == "" and transcript.code_blocks() == []


async def test_leaving_while_a_frame_is_due():
    app = TranscriptApp()
    async with app.run_test(size=(60, 20)):
        transcript = app.query_one(Transcript)
        transcript.show([Entry(1, "reply", "", streaming=True)])
        transcript.extend_text(1, "a")
        transcript.extend_text(1, "b")
        await app.query(Transcript).remove()
        assert transcript._frame is None or transcript._frame.cancelled()
    await asyncio.sleep(0.2)


# ---- keys


async def test_selecting_messages_with_keys():
    app = TranscriptApp()
    async with app.run_test(size=(60, 20)) as pilot:
        transcript = app.query_one(Transcript)
        entries = chat(6)
        entries.insert(4, Entry(-1, "marker", "folded"))
        transcript.show(entries)
        transcript.focus()
        for key, selected in (
            ("up", 6),
            ("k", 5),
            ("up", 4),
            ("home", 1),
            ("up", 1),
            ("j", 2),
            ("end", 6),
            ("down", None),
        ):
            await pilot.press(key)
            assert transcript.selected == selected
        await pilot.pause()
        assert [event.key for event in app.posted] == [6, 5, 4, 1, 2, 6, None]


async def test_the_selected_message_can_be_seen():
    app = TranscriptApp()
    async with app.run_test(size=(60, 20)) as pilot:
        transcript = app.query_one(Transcript)
        transcript.show(chat(40))
        transcript.focus()
        for _ in range(13):
            await pilot.press("up")
            await pilot.pause()
            lines = lines_of(app)
            marked = [y for y, line in enumerate(lines) if line.startswith(" ┃")]
            assert marked and marked == list(range(marked[0], marked[-1] + 1))
            assert lines[marked[0]] == (" ┃ You" if transcript.selected % 2 else " ┃ Koala")
        assert transcript.selected == 28


async def test_pages_scroll():
    app = TranscriptApp()
    async with app.run_test(size=(60, 20)) as pilot:
        transcript = app.query_one(Transcript)
        transcript.show(chat(40))
        transcript.focus()
        await pilot.pause()
        end = transcript.scroll_y
        await pilot.press("pageup")
        await pilot.pause()
        assert transcript.scroll_y < end and transcript.selected is None
        await pilot.press("pagedown")
        await pilot.pause()
        assert "   Koala" in shown(app)


async def test_digits_copy_code():
    app = TranscriptApp()
    async with app.run_test(size=(60, 20)) as pilot:
        transcript = app.query_one(Transcript)
        transcript.show([*chat(4), Entry(5, "user", "```\nmine\n```"), Entry(6, "reply", "no code")])
        transcript.focus()
        await pilot.press("1")
        assert transcript.code_blocks() == [] and transcript.code_blocks(2) == ['print("one")', "two"]
        transcript.selected = 4
        await pilot.press("2", "3", "1")
        await pilot.pause()
        copied = [(event.number, event.text) for event in app.posted if isinstance(event, Transcript.CopyBlock)]
        assert copied == [(2, "two"), (1, 'print("one")')]


# ---- mouse


async def test_clicks():
    app = TranscriptApp()
    async with app.run_test(size=(60, 30)) as pilot:
        transcript = app.query_one(Transcript)
        transcript.show([*chat(1), Entry(2, "reply", REPLY, "Koala", position=2, siblings=3)])
        await pilot.pause()
        x, y = at(app, "‹2/3›")
        await pilot.click(Transcript, offset=(x, y))
        await pilot.click(Transcript, offset=(x + 4, y))
        await pilot.click(Transcript, offset=at(app, "[2]"))
        await pilot.click(Transcript, offset=at(app, "question 1"))
        await pilot.pause()
        assert app.posted == [
            Transcript.SiblingWanted(2, -1),
            Transcript.SiblingWanted(2, 1),
            Transcript.CopyBlock(2, "two"),
            Transcript.Selected(1),
        ]


async def drag(pilot, start: tuple[int, int], end: tuple[int, int]) -> str | None:
    await pilot.mouse_down(Transcript, offset=start)
    await pilot.hover(Transcript, offset=end)
    await pilot.mouse_up(Transcript, offset=end)
    await pilot.pause()
    return pilot.app.screen.get_selected_text()


async def test_selected_text_is_what_was_written():
    app = TranscriptApp()
    async with app.run_test(size=(50, 30)) as pilot:
        transcript = app.query_one(Transcript)
        transcript.show([Entry(1, "user", "one\n  two", speaker="You"), Entry(2, "reply", REPLY + "> said", "Koala")])
        await pilot.pause()
        x, y = at(app, "first")
        end_x, end_y = at(app, "screen")
        assert await drag(pilot, (x, y), (end_x + 5, end_y)) == (
            "first\n • second, which is long enough to need more than one line on a narrow screen"
        )
        selected = transcript.render_line(y)
        assert any(segment.text.strip() == "first" for segment in selected)
        x, y = at(app, "one")
        assert await drag(pilot, (0, y), (20, y + 1)) == "one\n  two"
        x, y = at(app, 'print("')
        assert await drag(pilot, (0, y), (40, y)) == 'print("one")'
        x, y = at(app, "said")
        assert await drag(pilot, (0, y), (x + 1, y)) == "sa"


async def test_a_long_line_of_code_is_copied_as_one():
    app = TranscriptApp()
    async with app.run_test(size=(40, 20)) as pilot:
        app.query_one(Transcript).show([Entry(1, "reply", f"```\n{'x' * 90}\ny\n```", "Koala")])
        await pilot.pause()
        _, y = at(app, "xxx")
        assert await drag(pilot, (0, y), (30, y + 3)) == "x" * 90 + "\ny"


async def test_a_selection_survives_what_is_laid_out_above_it():
    app = TranscriptApp()
    async with app.run_test(size=(50, 20)) as pilot:
        transcript = app.query_one(Transcript)
        transcript.show(chat(40))
        await pilot.pause()
        x, y = at(app, "second, which")
        assert await drag(pilot, (x, y), (x + 5, y)) == "second"
        transcript.scroll_relative(y=-60)
        await pilot.pause()
        assert app.screen.get_selected_text() == "second"


async def test_a_double_click_selects_the_message():
    app = TranscriptApp()
    async with app.run_test(size=(60, 20)) as pilot:
        transcript = app.query_one(Transcript)
        transcript.show(chat(3, reply=""))
        await pilot.pause()
        await pilot.click(Transcript, offset=at(app, "answer 2"), times=2)
        await pilot.pause()
        assert app.screen.get_selected_text() == "Koala\nanswer 2"


async def test_the_wheel_scrolls_at_once():
    app = TranscriptApp()
    async with app.run_test(size=(60, 20)) as pilot:
        transcript = app.query_one(Transcript)
        transcript.show(chat(40))
        await pilot.pause()
        before = transcript.scroll_y
        transcript._scroll_up_for_pointer()
        assert transcript.scroll_y < before and transcript.scroll_y == int(transcript.scroll_y)


# ---- looks


async def test_another_theme_is_another_look():
    app = TranscriptApp()
    async with app.run_test(size=(60, 20)) as pilot:
        transcript = app.query_one(Transcript)
        transcript.show(chat(2))
        await pilot.pause()
        before = app.export_screenshot()
        app.theme = "textual-light"
        await pilot.pause()
        light = app.export_screenshot()
        app.theme = "koala"
        await pilot.pause()
        assert light != before == app.export_screenshot()


@pytest.mark.parametrize("theme", ["koala", "ansi-dark"])
async def test_without_colour_everything_can_be_told(theme, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    app = TranscriptApp()
    app.theme = theme
    async with app.run_test(size=(60, 30)) as pilot:
        transcript = app.query_one(Transcript)
        transcript.show([*chat(1), Entry(2, "reply", "**bold** *it* ~~no~~ `code`", "Koala", position=1, siblings=2)])
        transcript.selected = 2
        await pilot.pause()
        assert [line[:3] for line in lines_of(app)[:5]] == [" ▎ ", " ▎ ", "", " ┃ ", " ┃ "]
        styles = {segment.text: segment.style for segment in transcript.render_lines(transcript.size.region)[4]}
        assert styles["bold"].bold and styles["it"].italic and styles["no"].strike
        assert styles["code"] != styles[" "]
