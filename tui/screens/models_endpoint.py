"""An OpenAI-compatible server: where it is, whether it answers, and which of its models to talk to."""

from collections.abc import Callable
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.widgets import Button, Input, OptionList, Static
from textual.widgets.option_list import Option

from inference.errors import EngineError
from inference.load_options import LoadOptions

from ..model_host import Endpoint
from ..text import harmless
from .page import button

ABOUT = (
    "llama-server, vLLM, Ollama or any other OpenAI-compatible server. What you say there goes to that server. "
    "A key is taken from the environment variable KOALA_API_KEY."
)


class EndpointPane(Vertical):
    """A field for the URL, and the models that the server names. `choose` is given the one that is chosen."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "move('cursor_up')", "Up", show=False),
        Binding("down", "move('cursor_down')", "Down", show=False),
    ]

    def __init__(self, choose: Callable[[Endpoint, LoadOptions], None], **options: str) -> None:
        super().__init__(**options)
        self._choose = choose
        self._url = ""  # the one that `_models` are from
        self._models: list[str] = []

    def compose(self) -> ComposeResult:
        """Lay out the pane."""
        host, config = self.app.host, self.app.config
        url = host.target.url if isinstance(host.target, Endpoint) else config.endpoint or ""
        yield Static(ABOUT, classes="muted", markup=False)
        yield Input(harmless(url), placeholder="http://localhost:8080/v1", compact=True, id="url")
        with Horizontal(classes="buttons"):
            yield button("Test the connection", id="test", classes="-main")
        yield Static(id="endpoint-says", markup=False)
        models = OptionList(id="served", markup=False, compact=True)
        models.can_focus = False  # its keys work from the field
        yield models

    def begin(self) -> None:
        """Take the focus."""
        self.query_one("#url").focus()
        self.screen.summarize("")

    def on_input_changed(self) -> None:
        """Forget what another server said."""
        if self._models and self.query_one("#url", Input).value.strip() != self._url:
            self._show("", [])

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Ask the server, or take the highlighted one of the models that it has named."""
        event.stop()
        at = self.query_one("#served", OptionList).highlighted
        if self._models and at is not None:
            self._take(at)
        else:
            self._test()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """Ask the server."""
        event.stop()
        self._test()

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """Take the model that was clicked."""
        event.stop()
        self._take(event.option_index)

    def action_move(self, action: str) -> None:
        """Move in the list of models."""
        getattr(self.query_one("#served", OptionList), f"action_{action}")()

    def _take(self, at: int) -> None:
        self._choose(Endpoint(self._url, self._models[at]), self.app.host.options)

    def _test(self) -> None:
        url = self.query_one("#url", Input).value.strip()
        if url:
            self.run_worker(self._ask(url), group="test", exclusive=True)

    async def _ask(self, url: str) -> None:
        from inference.endpoint import list_models

        self._show("asking …", [])
        try:
            models = await list_models(url)
        except EngineError as error:
            self._show(str(error), [], wrong=True)
            return
        self._url = url
        count = "one model" if len(models) == 1 else f"{len(models)} models"
        invitation = " Enter talks to the one that is marked." if models else ""
        self._show(f"It answers, and serves {count}.{invitation}", models)

    def _show(self, text: str, models: list[str], wrong: bool = False) -> None:
        line = self.query_one("#endpoint-says", Static)
        line.update(harmless(text))
        line.set_class(wrong, "problem")
        self._models = models
        served = self.query_one("#served", OptionList)
        served.set_options([Option(Content(" ".join(harmless(name).split()))) for name in models])
        served.display = bool(models)
        if models:
            served.highlighted = 0
