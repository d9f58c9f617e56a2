from pathlib import Path
from types import MappingProxyType

from textual.widgets import Button, Input, TextArea

from inference.load_options import LoadOptions
from inference.sampling import Sampling
from tests.tui.screens.host_app import HostApp, shown
from tui.chat_settings import ChatSettings
from tui.config import PRESETS, Config, Preset
from tui.model_host import Endpoint
from tui.presets import save_preset, saved_presets
from tui.screens.form import Choice, FormRow
from tui.screens.settings import OWN, SettingsScreen

SIZE = (120, 50)


def field(app, name):
    return app.screen.query_one(f"#row-{name}", FormRow).field


def preset(app) -> Choice:
    return app.screen.query_one("#preset", Choice)


async def test_values_are_applied_together():
    app = HostApp(SettingsScreen(), target=Path("model.gguf"))
    async with app.run_test(size=SIZE) as pilot:
        field(app, "temperature").value = "0.2"
        app.screen.query_one("#system", TextArea).text = "Be [bold]brief[/].\nVery.\n"
        await pilot.press("ctrl+s")
        assert app.settings.sampling == Sampling(temperature=0.2)
        assert app.settings.system == "Be [bold]brief[/].\nVery."
        assert app.loads == [], "the model need not be loaded again"
        assert not isinstance(app.screen, SettingsScreen)


async def test_a_value_out_of_range_is_marked_and_nothing_is_applied():
    app = HostApp(SettingsScreen())
    async with app.run_test(size=(60, 20)) as pilot:
        field(app, "temperature").value = "0.2"
        field(app, "top_p").value = "7"
        await pilot.press("ctrl+s")
        await pilot.pause()
        assert isinstance(app.screen, SettingsScreen) and app.settings.sampling == Sampling()
        assert app.focused is field(app, "top_p"), "and one is led there"
        await pilot.pause()
        assert "top_p=7.0 is out of range; it goes from 0 to 1" in " ".join(shown(app).split())


async def test_other_load_options_load_the_model_again():
    app = HostApp(SettingsScreen(), target=Path("model.gguf"), options=LoadOptions(cache_dir="/cache"))
    async with app.run_test(size=SIZE) as pilot:
        field(app, "n_ctx").value = "4096"
        field(app, "kv_type").focus()
        await pilot.press("left", "enter", "ctrl+s")
        expected = LoadOptions(n_ctx=4096, cache_dir="/cache")
        assert app.loads == [(Path("model.gguf"), expected)]


async def test_an_endpoint_has_no_load_options_and_marks_what_it_ignores():
    class Running:
        ignored = ("min_p", "top_k")

    app = HostApp(SettingsScreen(), target=Endpoint("http://localhost:1/v1"))
    app.host.__class__ = type("Host", (type(app.host),), {"running": Running(), "loaded": None, "state": "ready"})
    async with app.run_test(size=SIZE) as pilot:
        assert not app.screen.query("#load") and shown(app).count("this endpoint ignores it") == 2
        await pilot.press("ctrl+s")
        assert app.settings.sampling == Sampling()


async def test_escape_warns_once_before_changes_are_lost():
    app = HostApp(SettingsScreen())
    async with app.run_test(size=SIZE) as pilot:
        app.screen.query_one("#system", TextArea).focus()
        await pilot.press("x", "escape")
        assert isinstance(app.screen, SettingsScreen) and len(app.said) == 1
        await pilot.press("escape")
        assert not isinstance(app.screen, SettingsScreen) and app.settings.system is None


async def test_escape_without_changes_goes_back():
    app = HostApp(SettingsScreen())
    async with app.run_test(size=SIZE) as pilot:
        await pilot.press("escape")
        assert not isinstance(app.screen, SettingsScreen) and app.said == []


# ---- presets


async def test_a_preset_fills_the_form_and_own_values_are_told_apart():
    app = HostApp(SettingsScreen())
    async with app.run_test(size=SIZE) as pilot:
        assert preset(app).value == "balanced"
        await pilot.press("right")
        assert preset(app).value == "precise" and field(app, "temperature").value == "0.2"
        field(app, "temperature").value = "0.25"
        await pilot.pause()
        assert preset(app).value == OWN
        field(app, "temperature").value = "0.2"
        await pilot.pause()
        assert preset(app).value == "precise"
        await pilot.press("ctrl+s")
        assert app.settings == ChatSettings(PRESETS["precise"].apply(Sampling()), None, "precise")


async def test_a_preset_may_bring_its_system_prompt_and_keeps_the_seed():
    config = Config(presets=MappingProxyType({"pirate": Preset({"temperature": 1.5}, "You are a pirate.")}))
    app = HostApp(SettingsScreen(), config=config)
    async with app.run_test(size=SIZE) as pilot:
        assert preset(app).value == OWN
        field(app, "seed").value = "7"
        preset(app).focus()
        await pilot.press("right", "ctrl+s")
        assert app.settings.sampling == Sampling(temperature=1.5, seed=7)
        assert app.settings.system == "You are a pirate."


async def test_save_as_and_delete():
    app = HostApp(SettingsScreen())
    async with app.run_test(size=SIZE) as pilot:
        assert app.screen.query_one("#delete", Button).disabled, "a built-in one stays"
        field(app, "temperature").value = "0.33"
        app.screen.query_one("#system", TextArea).text = "Short."
        await pilot.click("#save-as")
        await pilot.press(*"mine", "enter")
        await pilot.pause()
        assert preset(app).value == "mine"
        values = {"temperature": 0.33, "top_k": 40, "top_p": 0.95, "min_p": 0.05}
        assert saved_presets() == {
            "mine": Preset({**values, "repeat_penalty": 1.0, "max_tokens": 2048}, "Short."),
        }
        await pilot.click("#delete")
        await pilot.pause()
        assert preset(app).value == OWN and saved_presets() == {}
        assert field(app, "temperature").value == "0.33", "the values stay"


async def test_what_cannot_be_saved_is_a_sentence():
    app = HostApp(SettingsScreen())
    async with app.run_test(size=SIZE) as pilot:
        await pilot.click("#save-as")
        await pilot.press("enter")
        await pilot.pause()
        assert "a preset needs a name" in shown(app)
        field(app, "top_k").value = "-4"
        app.screen.query_one("#preset-name", Input).focus()
        await pilot.press("a", "enter")
        await pilot.pause()
        assert "some values are out of range" in shown(app) and saved_presets() == {}


async def test_a_preset_that_cannot_be_used_any_more_is_left_out(home):
    save_preset("good", Sampling(), None)
    file = home / "state.json"
    file.write_text(file.read_text().replace('"good": {', '"odd": 3, "wild": {"sampling": {"top_p": 5}}, "good": {', 1))
    assert set(saved_presets()) == {"good"}


async def test_hostile_names_are_shown_and_change_nothing():
    save_preset("[red]x[/]", Sampling(temperature=0.11), None)
    app = HostApp(SettingsScreen())
    async with app.run_test(size=SIZE) as pilot:
        preset(app).focus()
        await pilot.press("left", "left")
        await pilot.pause()
        assert "‹ [red]x[/] ›" in shown(app)
