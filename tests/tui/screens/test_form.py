from dataclasses import fields

import pytest
from textual.app import App
from textual.widgets import Input

from inference.load_options import LoadOptions
from inference.sampling import Sampling
from tui.screens.form import LOAD_SETTINGS, SAMPLING_SETTINGS, Choice, Form, FormRow

NOT_IN_THE_FORM = {"cache_dir", "cache_bytes", "force"}


class FormApp(App):
    CSS_PATH = "../../../tui/screens/form.tcss"

    def __init__(self, rows, start, ignored=None):
        super().__init__()
        self.form = Form(rows, start, ignored)

    def compose(self):
        yield self.form


def row(app, name) -> FormRow:
    return app.query_one(f"#row-{name}", FormRow)


def shown(app) -> str:
    return "\n".join("".join(segment.text for segment in line) for line in app.screen._compositor.render_strips())


def test_every_setting_has_its_row_and_a_line_that_explains_it():
    assert {each.name for each in SAMPLING_SETTINGS} == {field.name for field in fields(Sampling)}
    assert {each.name for each in LOAD_SETTINGS} == {field.name for field in fields(LoadOptions)} - NOT_IN_THE_FORM
    assert all(0 < len(each.help) <= 62 for each in (*SAMPLING_SETTINGS, *LOAD_SETTINGS))
    assert next(each for each in SAMPLING_SETTINGS if each.name == "top_p").range == "0 to 1"


@pytest.mark.parametrize(
    "rows, start",
    [
        (SAMPLING_SETTINGS, Sampling()),
        (SAMPLING_SETTINGS, Sampling(0.123456789, 7, 1.0, 0.0, 1.1, 9, 2**32 - 2)),
        (LOAD_SETTINGS, LoadOptions()),
        (LOAD_SETTINGS, LoadOptions(512, 3, -1, "q8_0", True, False, "chatml", "/cache", 5, True)),
    ],
)
async def test_what_is_shown_is_what_is_read(rows, start):
    app = FormApp(rows, start)
    async with app.run_test(size=(110, 40)):
        assert app.form.read() == start


async def test_what_is_typed_is_checked_at_once_beside_its_field():
    app = FormApp(SAMPLING_SETTINGS, Sampling())
    async with app.run_test(size=(110, 40)) as pilot:
        row(app, "top_p").field.focus()
        await pilot.press("end", "5", "9", "home", "1")
        await pilot.pause()
        assert "top_p=10.9559 is out of range; it goes from 0 to 1" in shown(app)
        assert app.form.read() is None
        await pilot.press("ctrl+k", "0", "ctrl+k", "backspace", "backspace", ".", "5")
        await pilot.pause()
        assert "out of range" not in shown(app)
        assert app.form.read() == Sampling(top_p=0.5)


@pytest.mark.parametrize("text", ["1,5", "nan", "inf", "-1", "1e400", "[b]", "=", "٠x"])
async def test_a_value_that_cannot_be_is_a_sentence(text):
    app = FormApp(SAMPLING_SETTINGS, Sampling())
    async with app.run_test(size=(110, 40)) as pilot:
        row(app, "temperature").query_one(Input).value = text
        await pilot.pause()
        assert row(app, "temperature").has_class("-wrong") and app.form.read() is None
        app.form.focus_problem()
        assert app.focused is row(app, "temperature").field


async def test_choices_with_keys_and_mouse():
    app = FormApp(LOAD_SETTINGS, LoadOptions())
    async with app.run_test(size=(110, 40)) as pilot:
        choice = row(app, "flash_attention").query_one(Choice)
        choice.focus()
        await pilot.press("right")
        assert app.form.read().flash_attention is True
        await pilot.press("space")
        assert app.form.read().flash_attention is False
        await pilot.press("right", "left", "left")
        assert app.form.read().flash_attention is True
        await pilot.click(choice, offset=(0, 0))
        assert app.form.read().flash_attention is None
        await pilot.click(choice, offset=(7, 0))
        assert app.form.read().flash_attention is True


async def test_up_and_down_go_through_the_rows():
    app = FormApp(SAMPLING_SETTINGS, Sampling())
    async with app.run_test(size=(60, 20)) as pilot:
        row(app, "temperature").field.focus()
        await pilot.press("down", "down")
        assert app.focused is row(app, "top_p").field
        await pilot.press("up")
        assert app.focused is row(app, "top_k").field


async def test_what_has_no_effect_is_marked():
    app = FormApp(SAMPLING_SETTINGS, Sampling(), {"min_p": "this endpoint ignores it"})
    async with app.run_test(size=(110, 40)):
        assert shown(app).count("this endpoint ignores it") == 1
