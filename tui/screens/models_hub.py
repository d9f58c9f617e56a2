"""Models on the Hugging Face Hub: what a repository has, and downloads that go on when the screen is closed."""

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.events import Resize
from textual.timer import Timer
from textual.widgets import Button, Input, OptionList, Static
from textual.widgets.option_list import Option

from inference.errors import EngineError
from inference.load_options import LoadOptions
from inference.machine import Memory

from ..downloads import Download
from ..hub import HubModel, find_models, parse_name, size_text
from ..model_facts import fits_by_size, room
from ..text import harmless
from ..widgets.model_table import FIT_COLOURS, GAP, fill
from .page import button

REDRAW_SECONDS = 0.5
BAR_CELLS = 16
QUANTIZATION_CELLS, SIZE_CELLS, FIT_CELLS = 10, 8, 5
ABOUT = "A repository of GGUF files on huggingface.co. Nothing but the download goes over the network."


class DownloadLine(Horizontal):
    """How far a download is, and a button for what can be done about it. `choose` is given the file that is there."""

    def __init__(self, download: Download, choose: Callable[[Path], None]) -> None:
        super().__init__(classes="download")
        self.download, self._choose = download, choose

    def compose(self) -> ComposeResult:
        """Lay out the line."""
        yield Static(classes="progress", markup=False)
        yield button("Cancel")

    def on_mount(self) -> None:
        """Draw it."""
        self.draw()

    def draw(self) -> None:
        """Show how far it is by now."""
        download = self.download
        label = "Cancel" if download.is_running else "Load it" if download.path is not None else "Go on"
        self.query_one(Button).label = Content(label)
        self.query_one(Static).update(_progress(download))

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """Cancel it, go on with it, or load what is there."""
        event.stop()
        downloads = self.app.downloads
        if self.download.is_running:
            downloads.cancel(self.download)
        elif self.download.path is not None:
            self._choose(self.download.path)
        else:
            self.download = downloads.start(self.download.model)
        self.call_after_refresh(self.draw)


class HubPane(Vertical):
    """A field for the repository, its models, and the downloads. `choose` is given the file that is to be loaded."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "move('cursor_up')", "Up", show=False),
        Binding("down", "move('cursor_down')", "Down", show=False),
        Binding("pageup", "move('page_up')", "Page up", show=False),
        Binding("pagedown", "move('page_down')", "Page down", show=False),
    ]

    def __init__(self, choose: Callable[[Path, LoadOptions], None], replaces: bool, **options: str) -> None:
        super().__init__(**options)
        self._choose, self._replaces = choose, replaces
        self._memory: Memory | None = None
        self._repository = ""
        self._models: list[HubModel] = []
        self._timer: Timer | None = None

    def compose(self) -> ComposeResult:
        """Lay out the pane."""
        yield Static(ABOUT, classes="muted", markup=False)
        yield Input(placeholder="OWNER/NAME-GGUF", compact=True, id="repository")
        yield Static(id="hub-says", markup=False)
        models = OptionList(id="hub-models", markup=False, compact=True)
        models.can_focus = False  # its keys work from the field
        yield models
        yield Vertical(id="downloads")

    async def on_mount(self) -> None:
        """Show the downloads that were begun before."""
        self._memory, _ = room(self.app.host, self._replaces)
        self._timer = self.set_interval(REDRAW_SECONDS, self._draw_downloads, pause=True)
        for download in self.app.downloads.all:
            await self._add_line(download)

    def begin(self) -> None:
        """Take the focus."""
        self.query_one("#repository").focus()
        self.screen.summarize("")
        self._timer.resume()

    # ---- the repository

    def on_input_changed(self, event: Input.Changed) -> None:
        """Forget what another repository had."""
        if self._models and event.value.strip() != self._repository:
            self._show("", [])

    async def on_input_submitted(self, event: Input.Submitted) -> None:
        """Look what the repository has, or download the highlighted one of its models."""
        event.stop()
        at = self.query_one("#hub-models", OptionList).highlighted
        if self._models and at is not None:
            await self._take(at)
        elif event.value.strip():
            self.run_worker(self._look(event.value.strip()), group="hub", exclusive=True)

    async def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """Download what was clicked."""
        event.stop()
        await self._take(event.option_index)

    def action_move(self, action: str) -> None:
        """Move in the list of models."""
        getattr(self.query_one("#hub-models", OptionList), f"action_{action}")()

    async def _look(self, text: str) -> None:
        self._show("looking …", [])
        try:
            repository, wanted = parse_name(text)
            models = await find_models(repository)
        except EngineError as error:
            self._show(str(error), [], wrong=True)
            return
        self._repository = text
        self._show("Enter downloads the one that is marked.", models)
        places = [number for number, model in enumerate(models) if wanted and wanted.lower() in model.name.lower()]
        if places:
            self.query_one("#hub-models", OptionList).highlighted = places[0]

    def _show(self, text: str, models: list[HubModel], wrong: bool = False) -> None:
        line = self.query_one("#hub-says", Static)
        line.update(harmless(text))
        line.set_class(wrong, "problem")
        self._models = models
        self._draw_models(0)

    def _draw_models(self, highlighted: int | None) -> None:
        table = self.query_one("#hub-models", OptionList)
        table.display = bool(self._models)
        width = self.size.width - 4
        with table.prevent(OptionList.OptionHighlighted):
            table.set_options([Option(self._row(model, width)) for model in self._models])
        if self._models:
            table.highlighted = highlighted or 0

    def _row(self, model: HubModel, width: int) -> Content:
        fits = fits_by_size(model.size, self._memory)
        columns = [
            Content.styled(fill(model.quantization, QUANTIZATION_CELLS), "$foreground-muted"),
            Content.styled(size_text(model.size).rjust(SIZE_CELLS), "$foreground-muted"),
            Content.styled(fill(fits, FIT_CELLS), FIT_COLOURS.get(fits, "")),
        ]
        name = width - sum(GAP + column.cell_length for column in columns)
        return Content(" " * GAP).join([Content(fill(" ".join(harmless(model.name).split()), name)), *columns])

    def on_resize(self, event: Resize) -> None:
        """Draw the list for another width."""
        self._draw_models(self.query_one("#hub-models", OptionList).highlighted)

    # ---- downloads

    async def _take(self, at: int) -> None:
        model = self._models[at]
        download = self.app.downloads.find(model)
        if download is not None and download.path is not None:
            self._load(download.path)
            return
        download = self.app.downloads.start(model)
        lines = [line for line in self.query(DownloadLine) if line.download.model == model]
        if lines:
            lines[0].download = download
            lines[0].draw()
        else:
            await self._add_line(download)

    async def _add_line(self, download: Download) -> None:
        place = self.query_one("#downloads", Vertical)
        await place.mount(DownloadLine(download, self._load), before=0 if place.children else None)

    def _load(self, path: Path) -> None:
        self._choose(path, self.app.host.options)

    def _draw_downloads(self) -> None:
        if self.display:
            for line in self.query(DownloadLine):
                line.draw()


def _progress(download: Download) -> Content:
    name = " ".join(harmless(download.model.name).split())
    if download.path is not None:
        return Content.assemble(("✓ ", "$success"), name, (f"  {size_text(download.total)}", "$foreground-muted"))
    share = min(1.0, download.done / max(download.total, 1))
    filled = round(share * BAR_CELLS)
    facts = [f"{100 * share:3.0f} %", f"{size_text(download.done)} of {size_text(download.total)}"]
    if download.is_running:
        facts += [f"{size_text(int(download.rate))}/s"] if download.rate else []
        facts += [f"{_duration(download.seconds_left)} left"] if download.seconds_left is not None else []
    return Content.assemble(
        ("━" * filled, "$primary"),
        ("╌" * (BAR_CELLS - filled), "$foreground-muted"),
        f" {' · '.join(facts)}  ",
        (name, "$foreground-muted"),
        "" if download.is_running else ("\n" + harmless(download.error), "$warning"),
    )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
