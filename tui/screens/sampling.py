"""How one model chooses its words, apart from the chat's own settings."""

from collections.abc import Iterable
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.widget import Widget
from textual.widgets import Button, Static

from inference.sampling import Sampling

from ..presets import all_presets
from .dialog import Dialog
from .form import SAMPLING_SETTINGS, Choice, Form
from .page import button

NONE = "choose …"


class SamplingScreen(Dialog[Sampling]):
    """A form in a box. Its result is the new settings, or None where the user left it."""

    HEADING = "Settings of the second model"
    CSS_PATH = ["dialog.tcss", "form.tcss", "sampling.tcss"]  # noqa: RUF012 - the name and the type are Textual's
    BINDINGS: ClassVar[list[BindingType]] = [Binding("ctrl+s", "apply", "Apply", show=False, priority=True)]

    def __init__(self, sampling: Sampling) -> None:
        super().__init__()
        self._sampling = sampling

    def content(self) -> Iterable[Widget]:
        """Yield the form."""
        self._presets = all_presets(self.app.config.presets)
        with VerticalScroll(can_focus=False):
            with Horizontal(id="preset-row"):
                yield Static("preset", classes="label")
                yield Choice([NONE, *self._presets], NONE, id="preset")
            yield Form(SAMPLING_SETTINGS, self._sampling, classes="-one-column")
        with Horizontal(classes="buttons"):
            yield button("Apply", classes="-main")
        yield Static("Ctrl+S applies it · Esc leaves it as it was", classes="muted", markup=False)

    def on_choice_changed(self, event: Choice.Changed) -> None:
        """Fill in the preset."""
        preset = self._presets.get(event.choice.value)
        if preset is not None:
            form = self.query_one(Form)
            form.show(preset.apply(form.read() or self._sampling))

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """Apply it."""
        self.action_apply()

    def on_input_submitted(self) -> None:
        """Apply it."""
        self.action_apply()

    def action_apply(self) -> None:
        """Give the settings back, or go to what is wrong."""
        form = self.query_one(Form)
        sampling = form.read()
        if sampling is None:
            form.focus_problem()
        else:
            self.dismiss(sampling)
