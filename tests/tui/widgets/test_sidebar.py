import time
from datetime import date, datetime, timedelta

import pytest
from textual.app import App

from tests.tui.conftest import screen_text, until
from tui.store import Chat
from tui.widgets.sidebar import PAGE, ChatList

NOW = datetime.combine(date.today(), datetime.min.time()).timestamp() + 3600


def chat(number: int, *, days: float = 0, title: str | None = None, **values) -> Chat:
    values = {"pinned": False, "settings": {}, "draft": "", "messages": 2, **values}
    return Chat(number, f"chat {number}" if title is None else title, 0, NOW - days * 86400, **values)


class ListApp(App):
    def __init__(self, chats: list[Chat]) -> None:
        super().__init__()
        self.chats, self.reads, self.opened = chats, [], []
        self.list = ChatList(self.load)

    def load(self, limit: int, offset: int) -> list[Chat]:
        self.reads.append((limit, offset))
        return self.chats[offset : offset + limit]

    def compose(self):
        yield self.list

    def on_mount(self):
        self.list.reload()
        self.list.focus()

    def on_chat_list_opened(self, message):
        self.opened.append(message.chat_id)


async def test_groups_by_time():
    chats = [
        chat(1, days=40, pinned=True), chat(2), chat(3, days=1), chat(4, days=3), chat(5, days=6), chat(6, days=8),
    ]  # fmt: skip
    app = ListApp(chats)
    async with app.run_test(size=(30, 20)):
        assert app.list.titles == [
            *("Pinned", "chat 1", "", "Today", "chat 2", "", "Yesterday", "chat 3", ""),
            *("Last 7 days", "chat 4", "chat 5", "", "Older", "chat 6"),
        ]


def test_days_are_calendar_days():
    from tui.widgets.sidebar import _when

    today = date(2026, 3, 30)  # the day after clocks change in Europe
    for days, group in [(0, "Today"), (1, "Yesterday"), (2, "Last 7 days"), (6, "Last 7 days"), (7, "Older")]:
        moment = datetime.combine(today - timedelta(days=days), datetime.min.time().replace(hour=12))
        assert _when(moment.timestamp(), today) == group


async def test_chats_without_anything_in_them_are_left_out():
    app = ListApp(
        [chat(1, title="", messages=0), chat(2, title="", messages=0, draft="to be\nsent"), chat(3, title="")]
    )
    async with app.run_test(size=(30, 10)):
        shown = screen_text(app)
        assert app.list.titles == ["Today", "New chat", "New chat"]
        assert "to be sent" in shown and "✎" in shown


async def test_marks_and_titles():
    chats = [chat(1, title="[b]bold[/b]\x1b[31m\nx " + "long " * 20), chat(2), chat(3), chat(4, pinned=True)]
    app = ListApp(chats)
    async with app.run_test(size=(30, 12)) as pilot:
        app.list.show(open_id=1, busy={2: "writing", 3: "waiting"})
        await pilot.pause()
        lines = screen_text(app).splitlines()
        assert lines[1].startswith("▎ [b]bold[/b]␛[31m x long") and "…" in lines[1]
        assert lines[2].rstrip().endswith("▸") and lines[3].rstrip().endswith("◷") and lines[-7].strip() != ""
        assert any(line.rstrip().endswith("★") for line in lines)


async def test_the_keys():
    app = ListApp([chat(number, days=number) for number in range(1, 60)])
    async with app.run_test(size=(30, 12)) as pilot:
        await pilot.press("enter")
        await until(lambda: app.opened == [1])
        await pilot.press("down", "enter", "j", "enter", "up", "enter", "k", "k", "k", "enter")
        await until(lambda: app.opened == [1, 2, 3, 2, 1])
        await pilot.press("pagedown", "enter", "end", "enter", "home", "enter", "pageup", "enter")
        await until(lambda: len(app.opened) == 9)
        assert app.opened[-3:] == [59, 1, 1] and 4 < app.opened[-4] < 14
        await pilot.press("end")
        assert "chat 59" in screen_text(app), "what the cursor is on can be seen"
        assert app.list.cursor_chat.id == 59 and app.list.neighbour(59) == 58 and app.list.neighbour(1) == 2


async def test_an_empty_list():
    app = ListApp([])
    async with app.run_test(size=(30, 12)) as pilot:
        await pilot.press("down", "enter", "end", "pageup")
        assert app.opened == [] and "no chats yet" in screen_text(app)


async def test_ten_thousand_chats_are_read_page_by_page():
    app = ListApp([chat(number, days=number / 100) for number in range(10_000)])
    started = time.perf_counter()
    async with app.run_test(size=(30, 40)) as pilot:
        assert time.perf_counter() - started < 5
        assert app.reads == [(PAGE, 0)]
        app.list.scroll_to(y=70, animate=False, immediate=True)
        await until(lambda: len(app.reads) > 1)
        assert app.reads[1] == (PAGE, PAGE)
        for _ in range(5):
            await pilot.press("end")
        assert 300 <= len(app.list.titles) < 2000
        read = len(app.list._chats)
        app.list.reload()
        assert app.reads[-1] == (read, 0), "what was read is read again, and nothing else"


@pytest.mark.parametrize("position", ["first", "below"])
async def test_the_mouse(position):
    app = ListApp([chat(1), chat(2)])
    async with app.run_test(size=(30, 12)) as pilot:
        await pilot.click(app.list, offset=(5, 0))
        assert app.opened == [], "a heading is no chat"
        await pilot.click(app.list, offset=(5, 2 if position == "first" else 9))
        await pilot.pause()
        assert app.opened == ([2] if position == "first" else [])
