import pytest
from textual.containers import VerticalScroll
from textual.widgets import Static

from inference.events import Loaded
from tests.tui.conftest import app_with_script, state, until
from tui.commands import COMMANDS, usage
from tui.config import Config
from tui.model_host import Endpoint
from tui.screens.help import HelpScreen, facts


async def opened(pilot) -> str:
    """Open the help and return its text."""
    app = pilot.app
    await pilot.press("f1")
    await until(lambda: isinstance(app.screen, HelpScreen) and app.screen.query_one("#help-text").render())
    await until(lambda: "The model" in app.screen.query_one("#help-text", Static).content.plain)
    return app.screen.query_one("#help-text", Static).content.plain


async def test_every_command_and_key_is_in_it():
    app = app_with_script(options={"config": Config(keys={"search": "f12"})})
    async with app.run_test(size=(120, 40)) as pilot:
        text = await opened(pilot)
        flat = " ".join(text.split())
        for each in COMMANDS:
            assert " ".join(each.help.split()) in flat, each.name
            assert usage(each) in flat
        assert "F12" in text and "Ctrl+F" not in text
        assert "makes things up" in flat and "chats.db" in flat


@pytest.mark.parametrize("size", [(60, 20), (100, 30), (30, 10)])
async def test_it_fits_and_scrolls(size):
    app = app_with_script()
    async with app.run_test(size=size) as pilot:
        text = await opened(pilot)
        width = app.screen.query_one(VerticalScroll).scrollable_content_region.width
        assert max(map(len, text.splitlines())) <= max(width, 30)
        await pilot.press("end")
        view = app.screen.query_one(VerticalScroll)
        await until(lambda: view.scroll_y == view.max_scroll_y > 0)
        await pilot.press("f1")
        assert len(app.screen_stack) == 2, "once is enough"
        await pilot.press("escape")
        assert len(app.screen_stack) == 1


async def test_what_is_in_effect_is_in_it():
    loaded = {"name": "Fake [b]", "n_threads": 7, "kv_type": "q8_0", "flash_attention": True, "n_gpu_layers": 33}
    app = app_with_script(loaded=loaded)
    async with app.run_test() as pilot:
        await until(lambda: state(app) == "ready")
        lines = [" ".join(line.split()) for line in (await opened(pilot)).splitlines()]
        expected = ["name Fake [b]", "threads 7", "KV cache q8_0, 512 B", "flash attention on", "GPU layers 33"]
        for line in [*expected, "context 2,048 tokens of 2,048", "mmap on", "template the file's own"]:
            assert line in lines


async def test_an_endpoint_is_said_to_get_the_messages():
    app = app_with_script(options={"target": Endpoint("http://localhost:9/v1", "m")})
    async with app.run_test() as pilot:
        text = " ".join((await opened(pilot)).split())
        assert "What you write is sent to http://localhost:9/v1" in text


async def test_a_model_that_failed_to_load_says_why():
    app = app_with_script(load_error="the file is odd")
    async with app.run_test() as pilot:
        await until(lambda: state(app) == "failed")
        assert "failed the file is odd" in " ".join((await opened(pilot)).split())


def test_what_an_endpoint_does_not_tell_is_left_out():
    assert facts(Loaded("m", "", 4096)) == {"name": "m", "context": "4,096 tokens"}
