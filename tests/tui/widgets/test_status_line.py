import pytest
from textual.app import App

from tests.tui.conftest import screen_text, until
from tui.widgets.status_line import StatusLine

FACTS = {
    "state": "ready",
    "model": "Koala 7B",
    "quantization": "Q4_K_M",
    "context_used": 1234,
    "context_size": 4096,
    "tokens_per_second": 12.34,
    "time_to_first_token": 0.25,
    "memory": 5 * 2**30,
}


class LineApp(App):
    def __init__(self) -> None:
        super().__init__()
        self.line = StatusLine()

    def compose(self):
        yield self.line


async def drawn(width: int, **facts) -> str:
    app = LineApp()
    async with app.run_test(size=(width, 2)):
        app.line.show(**facts)
        await until(lambda: app.line._timer is None)
        app.line.refresh()
        await until(lambda: facts["state"][:4] in screen_text(app))
        return screen_text(app).splitlines()[0]


async def test_everything_where_there_is_room():
    line = await drawn(110, **FACTS)
    assert line.split("   ")[0] == "● ready" and line.rstrip().endswith("5.0 GiB   Koala 7B · Q4_K_M")
    assert "12.3 tok/s   250 ms to first   ━━╌╌╌╌╌╌ 1,234/4,096" in line


async def test_the_less_important_facts_go_first():
    seen = []
    for width in range(110, 7, -4):
        line = await drawn(width, **FACTS)
        assert line.startswith("● ready") and len(line) == width
        seen.append([part in line for part in ("GiB", "to first", "Q4", "╌", "tok/s", "1,234", "Koala")])
    for parts in seen:
        assert parts == sorted(parts), "where one is missing, all that are less important are"
    assert all(seen[0]) and not any(seen[-1])


@pytest.mark.parametrize(
    ("state", "sign"),
    [
        ("loading", "◌"),
        ("no model", "○"),
        ("ready", "●"),
        ("reading 40 %", "◔"),
        ("writing", "▸"),
        ("waiting, 2 ahead", "◷"),
        ("failed", "✕"),
        ("closing", "◌"),
    ],
)
async def test_each_state_has_a_sign(state, sign):
    assert (await drawn(40, state=state)).startswith(f"{sign} {state}")


async def test_a_fast_model_does_not_draw_the_line_hundreds_of_times():
    app = LineApp()
    async with app.run_test(size=(60, 2)) as pilot:
        draws = 0
        render = StatusLine.render

        def count(self):
            nonlocal draws
            draws += 1
            return render(self)

        StatusLine.render = count
        try:
            for used in range(500):
                app.line.show(context_used=used, context_size=1000)
            await until(lambda: "499/1,000" in screen_text(app))
            await pilot.pause()
        finally:
            StatusLine.render = render
        assert 1 <= draws <= 4


async def test_numbers():
    assert "1,234 tok/s" in await drawn(60, state="ready", tokens_per_second=1234.5)
    assert "2.5 s to first" in await drawn(60, state="ready", time_to_first_token=2.5, tokens_per_second=1)
    assert "9,000/8,192" in await drawn(60, state="ready", context_used=9000, context_size=8192)
    assert (await drawn(20, state="ready", model="[b]" + "x" * 40)).rstrip().endswith("…")
