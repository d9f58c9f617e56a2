"""The model screen: files on this machine, files on the Hugging Face Hub, and endpoints."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.widget import Widget
from textual.widgets import Button, ContentSwitcher

from inference.load_options import LoadOptions

from ..model_host import Target
from .models_endpoint import EndpointPane
from .models_files import FilesPane
from .models_hub import HubPane
from .page import Page, button

PANES = {"files": "On this machine", "hub": "From the hub", "endpoint": "Endpoint"}

Chosen = Callable[[Target, LoadOptions], None]


class ModelsScreen(Page):
    """Three ways to a model. What is chosen is loaded, or given to `chosen` where somebody else asked for it."""

    HEADING = "Models"
    CSS_PATH = ["page.tcss", "form.tcss", "models.tcss"]  # noqa: RUF012 - the name and the type are Textual's
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("f2", "show('files')", "files", key_display="F2"),
        Binding("f3", "show('hub')", "hub", key_display="F3"),
        Binding("f4", "show('endpoint')", "endpoint", key_display="F4"),
    ]

    def __init__(self, heading: str = "", chosen: Chosen | None = None) -> None:
        super().__init__()
        self._heading, self._chosen = heading or self.HEADING, chosen

    def content(self) -> Iterable[Widget]:
        """Yield the three panes, one of them shown."""
        with Horizontal(id="panes"):
            for name, label in PANES.items():
                yield button(label, id=f"show-{name}")
        with ContentSwitcher(initial="files"):
            yield FilesPane(self.choose, replaces=self._chosen is None, id="files")
            yield HubPane(self.choose, replaces=self._chosen is None, id="hub")
            yield EndpointPane(self.choose, id="endpoint")

    def on_mount(self) -> None:
        """Begin with the files."""
        self.query_one("#title").update(self._heading)
        for name in PANES:
            self.query_one(f"#show-{name}").can_focus = False  # the function keys and the mouse go there
        self.action_show("files")

    def action_show(self, name: str) -> None:
        """Show one of the panes."""
        self.query_one(ContentSwitcher).current = name
        for each in PANES:
            self.query_one(f"#show-{each}").set_class(each == name, "-main")
        self.query_one(f"#{name}").begin()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """Show the pane whose name was clicked."""
        name = (event.button.id or "").removeprefix("show-")
        if name in PANES:
            self.action_show(name)

    def choose(self, target: Target | Path, options: LoadOptions) -> None:
        """Take this model, and go back."""
        self.dismiss()
        (self._chosen or self.app.load_model)(target, options)
