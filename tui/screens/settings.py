"""The settings of a chat: a preset, the system prompt, how tokens are chosen, and how the model is loaded."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.widget import Widget
from textual.widgets import Button, Input, Static, TextArea

from inference.errors import InputError
from inference.load_options import LoadOptions
from inference.sampling import Sampling

from ..config import Preset
from ..model_host import Endpoint
from ..presets import all_presets, delete_preset, save_preset, saved_presets
from ..text import harmless
from .form import LOAD_SETTINGS, SAMPLING_SETTINGS, Choice, Form
from .page import Page, button

OWN = "own values"


class SettingsScreen(Page):
    """The settings of the chat that is open. Nothing changes before they are applied, and then all of it or nothing."""

    HEADING = "Settings of this chat"
    CSS_PATH = ["page.tcss", "form.tcss", "settings.tcss"]  # noqa: RUF012 - the name and the type are Textual's
    BINDINGS: ClassVar[list[BindingType]] = [Binding("ctrl+s", "apply", "apply", key_display="Ctrl+S", priority=True)]

    def content(self) -> Iterable[Widget]:
        """Yield the form."""
        settings = self._settings = self.app.chat_settings()
        self._presets = all_presets(self.app.config.presets)
        self._sampling: Sampling = settings.sampling
        self._system: str = settings.system or ""
        self._options: LoadOptions = self.app.host.options
        self._warned = False
        with VerticalScroll(id="settings", can_focus=False):
            yield from self._preset_row(settings.preset)
            yield Static("System prompt", classes="section")
            yield Static("What the model is told before the conversation; empty: nothing.", classes="muted")
            yield TextArea(self._system, id="system", soft_wrap=True, highlight_cursor_line=False)
            yield Static("Sampling", classes="section")
            yield Form(SAMPLING_SETTINGS, self._sampling, self._ignored(), id="sampling")
            if not isinstance(self.app.host.target, Endpoint):
                yield Static("How the model is loaded", classes="section")
                yield Static(self._in_effect(), classes="muted", id="in-effect", markup=False)
                yield Form(LOAD_SETTINGS, self._options, id="load")
            with Horizontal(id="buttons"):
                yield button("Apply", id="apply", classes="-main")
                yield button("Back", id="back")

    def _preset_row(self, chosen: str | None) -> ComposeResult:
        with Horizontal(id="preset-row"):
            yield Static("preset", classes="label")
            yield Choice([*self._presets, OWN], self._first_preset(chosen), id="preset")
            yield button("Save as …", id="save-as")
            yield button("Delete", id="delete")
        with Horizontal(id="save-row"):
            yield Static("its name", classes="label")
            yield Input(placeholder="Enter saves it", compact=True, id="preset-name")
        yield Static(id="preset-problem", classes="problem", markup=False)

    def on_mount(self) -> None:
        """Begin with the preset."""
        self.query_one("#save-row").display = False
        self.query_one("#preset-problem").display = False
        self.summarize(self.app.host.name)
        self._show_delete()
        self.query_one("#preset").focus()

    # ---- presets

    def on_choice_changed(self, event: Choice.Changed) -> None:
        """Fill in what the preset says."""
        preset = self._presets.get(event.choice.value)
        if preset is not None:
            sampling = self._form_sampling() or self._sampling
            self.query_one("#sampling", Form).show(preset.apply(sampling))
            if preset.system is not None:
                self.query_one("#system", TextArea).text = preset.system
        self._show_delete()

    def on_form_changed(self, event: Form.Changed) -> None:
        """Say which preset the values are by now, if any."""
        self._warned = False
        self._name_preset()

    def on_text_area_changed(self) -> None:
        """Say which preset the values are by now, if any."""
        self._warned = False
        self._name_preset()

    def _name_preset(self) -> None:
        sampling = self._form_sampling()
        choice = self.query_one("#preset", Choice)
        if sampling is not None and not self._is_preset(choice.value, sampling, self._form_system()):
            choice.value = self._preset_name(sampling, self._form_system())
        self._show_delete()

    def _preset_name(self, sampling: Sampling, system: str) -> str:
        return next((name for name in self._presets if self._is_preset(name, sampling, system)), OWN)

    def _first_preset(self, chosen: str | None) -> str:
        if chosen is not None and self._is_preset(chosen, self._sampling, self._system):
            return chosen
        return self._preset_name(self._sampling, self._system)

    def _is_preset(self, name: str, sampling: Sampling, system: str) -> bool:
        preset: Preset | None = self._presets.get(name)
        return (
            preset is not None
            and preset.apply(sampling) == sampling
            and (preset.system is None or preset.system == system)
        )

    def _show_delete(self) -> None:
        self.query_one("#delete", Button).disabled = self.query_one("#preset", Choice).value not in saved_presets()

    def _complain(self, problem: str) -> None:
        line = self.query_one("#preset-problem", Static)
        line.update(harmless(problem))
        line.display = bool(problem)

    def _save_as(self) -> None:
        self._complain("")
        self.query_one("#save-row").display = True
        self.query_one("#preset-name").focus()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Save the preset, or apply everything."""
        if event.input.id != "preset-name":
            self.action_apply()
            return
        sampling = self.query_one("#sampling", Form).read()
        if sampling is None:
            self._complain("some values are out of range; they are marked below")
            return
        name = event.value.strip()
        try:
            save_preset(name, sampling, self._form_system() or None)
        except InputError as error:
            self._complain(str(error))
            return
        event.input.value = ""
        self.query_one("#save-row").display = False
        self._refresh_presets(name)

    def _delete(self) -> None:
        delete_preset(self.query_one("#preset", Choice).value)
        self._refresh_presets("")

    def _refresh_presets(self, name: str) -> None:
        self._presets = all_presets(self.app.config.presets)
        choice = self.query_one("#preset", Choice)
        choice.words = [*self._presets, OWN]
        choice.value = name or self._preset_name(self._form_sampling() or self._sampling, self._form_system())
        choice.focus()
        self._show_delete()

    # ---- the whole

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """Do what the button says."""
        {"apply": self.action_apply, "back": self.action_leave, "save-as": self._save_as, "delete": self._delete}[
            event.button.id
        ]()

    def action_apply(self) -> None:
        """Take over everything, or nothing where something cannot be."""
        forms = list(self.query(Form))
        values = [form.read() for form in forms]
        for form, value in zip(forms, values, strict=True):
            if value is None:
                form.focus_problem()
                return
        sampling, *options = values
        system, preset = self._form_system(), self.query_one("#preset", Choice).value
        self.app.set_chat_settings(
            replace(self._settings, sampling=sampling, system=system or None, preset=None if preset == OWN else preset)
        )
        if options and options[0] != self._options:
            self.app.load_model(self.app.host.target, options[0])
        self.dismiss()

    def action_leave(self) -> None:
        """Go back; where something was changed and not applied, only at the second time."""
        if self._changed() and not self._warned:
            self._warned = True
            self.app.say("Nothing is changed yet: Ctrl+S applies it, Esc again forgets it.", "warning")
            return
        self.dismiss()

    def _changed(self) -> bool:
        values = [form.read() for form in self.query(Form)]
        return values != [self._sampling, self._options][: len(values)] or self._form_system() != self._system.strip()

    def _form_sampling(self) -> Sampling | None:
        return self.query_one("#sampling", Form).read()

    def _form_system(self) -> str:
        return self.query_one("#system", TextArea).text.strip()

    def _ignored(self) -> dict[str, str]:
        names: Any = getattr(self.app.host.running, "ignored", ())
        return dict.fromkeys(names, "this endpoint ignores it")

    def _in_effect(self) -> str:
        loaded = self.app.host.loaded
        if loaded is None:
            return "No model is loaded; this holds for the next one."
        facts = [f"{loaded.n_ctx:,} tokens", f"KV cache {loaded.kv_type}", f"{loaded.n_threads} threads"]
        facts += [f"{loaded.n_gpu_layers} layers on the GPU", f"flash attention {_on(loaded.flash_attention)}"]
        facts += [f"mmap {_on(loaded.mmap)}", f"template: {loaded.template}"]
        return harmless("In effect: " + " · ".join(facts) + ". A change loads the model again.")


def _on(flag: bool) -> str:
    return "on" if flag else "off"
