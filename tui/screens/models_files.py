"""The GGUF files on this machine: found in the background, filtered as one types, with how they fit into memory."""

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.widgets import Button, Input, OptionList, Static
from textual.worker import get_current_worker

from inference.errors import InputError
from inference.fit import will_it_fit
from inference.load_options import LoadOptions
from inference.machine import Memory
from inference.scan import find_models

from .. import paths
from ..attachments import dropped_files
from ..model_facts import describe, room
from ..widgets.model_table import ModelRow, ModelTable
from .form import LOAD_SETTINGS, Form
from .page import button

BATCH_SECONDS = 0.1
PATH_STARTS = ("/", "~", "./", "../", ".\\", "..\\")


class FilesPane(Vertical):
    """A filter, the table, and beside or below it the details and the load options.

    `choose` is given the file and the options; it `replaces` the loaded model or comes beside it.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "move('cursor_up')", "Up", show=False),
        Binding("down", "move('cursor_down')", "Down", show=False),
        Binding("pageup", "move('page_up')", "Page up", show=False),
        Binding("pagedown", "move('page_down')", "Page down", show=False),
        Binding("ctrl+l", "options", "load options", key_display="Ctrl+L"),
    ]

    def __init__(self, choose: Callable[[Path, LoadOptions], None], replaces: bool, **options: str) -> None:
        super().__init__(**options)
        self._choose, self._replaces = choose, replaces
        self._memory: Memory | None = None
        self._gpu = False
        self._rows: dict[Path, ModelRow] = {}
        self._scanning = 0
        self._sure_of: Path | None = None  # who was told that it does not fit, and may load it all the same

    def compose(self) -> ComposeResult:
        """Lay out the pane."""
        yield Input(placeholder="type to filter; a path opens that file or folder", compact=True, id="filter")
        with Horizontal(id="files-body"):
            with Vertical(id="files-list"):
                head = Static(id="table-head", classes="muted")
                yield head
                yield ModelTable(head.update)
                yield Static(id="no-files", classes="muted", markup=False)
            with VerticalScroll(id="side", can_focus=False):
                yield Static(id="details")
                with Vertical(id="load-options"):
                    yield Static(id="options-of", classes="section", markup=False)
                    yield Form(LOAD_SETTINGS, self.app.host.options, id="load", classes="-one-column")
                    with Horizontal(classes="buttons"):
                        yield button("Load", id="load-it", classes="-main")

    def on_mount(self) -> None:
        """Begin to look for files."""
        self.query_one(ModelTable).can_focus = False  # its keys work from the filter
        self._memory, self._gpu = room(self.app.host, self._replaces)
        folders = [paths.models_folder(), *self.app.config.folders]
        self._look_through(lambda: _find(folders, usual=True))

    def begin(self) -> None:
        """Take the focus."""
        self.query_one("#filter").focus()
        self._say_how_many()

    # ---- looking for files

    def _look_through(self, find: Callable[[], Iterator[ModelRow]], opened: Path | None = None) -> None:
        """Look for files in the background; go to the first one where the user has `opened` a path."""
        self._scanning += 1
        self.run_worker(lambda: self._scan(find, opened), thread=True, group="scan")

    def _scan(self, find: Callable[[], Iterator[ModelRow]], opened: Path | None) -> None:
        """Report what is found in batches; runs in a thread."""
        worker, batch, reported = get_current_worker(), [], time.monotonic()
        first: Path | None = None
        for row in find():
            if worker.is_cancelled:
                return
            first = first or row.path
            batch.append(row)
            if time.monotonic() - reported >= BATCH_SECONDS:
                self.app.call_from_thread(self._found, batch)
                batch, reported = [], time.monotonic()
        if not worker.is_cancelled:
            self.app.call_from_thread(self._found, batch)
            self.app.call_from_thread(self._done, opened, first)

    def _found(self, rows: Iterable[ModelRow]) -> None:
        self._rows.update({row.path: self._judge(row) for row in rows})
        self._show()

    def _done(self, opened: Path | None, first: Path | None) -> None:
        self._scanning -= 1
        if opened is not None and first is None:
            self.app.say(f"There is no GGUF file in {opened}.", "warning")
        elif opened is not None:
            self.query_one("#filter", Input).value = ""
        self._show(first if opened is not None else None)

    def _judge(self, row: ModelRow) -> ModelRow:
        """Return the row with what depends on the machine and on the load options."""
        options = self._options()
        fits = ""
        if row.header is not None and options is not None:
            with suppress(InputError):
                fits = will_it_fit(row.header, options, self._memory, gpu=self._gpu).verdict
        return replace(row, fits=fits, current=row.path == self.app.host.target)

    # ---- what is shown

    def _show(self, go_to: Path | None = None) -> None:
        words = self.query_one("#filter", Input).value.lower().split()
        table = self.query_one(ModelTable)
        keep = go_to or (table.row.path if table.row is not None else self.app.host.target)
        is_path = _is_path(self.query_one("#filter", Input).value)
        shown = [row for row in self._rows.values() if is_path or row.matches(words)]
        table.show(shown, keep if isinstance(keep, Path) else None)
        self._say_how_many()
        note = self.query_one("#no-files", Static)
        note.display = not shown
        table.display = self.query_one("#table-head").display = bool(shown)
        note.update("looking for models …" if self._scanning else NOTHING if not self._rows else "nothing matches")
        self._show_details()

    def _say_how_many(self) -> None:
        if self.display:
            count = f"{len(self._rows)} found · Enter loads" if self._rows else ""
            self.screen.summarize(f"{count} · looking …".strip(" ·") if self._scanning else count)

    def _show_details(self) -> None:
        row = self.query_one(ModelTable).row
        details = Content("")
        if row is not None:
            details = describe(row, self._options(), self._memory, gpu=self._gpu)
        self.query_one("#details", Static).update(details)
        self.query_one("#options-of", Static).update(f"Load options of {row.name}" if row else "Load options")

    def _options(self) -> LoadOptions | None:
        return self.query_one("#load", Form).read()

    # ---- what the user does

    def action_move(self, action: str) -> None:
        """Move in the table."""
        getattr(self.query_one(ModelTable), f"action_{action}")()

    def action_options(self) -> None:
        """Go to the load options, or back from there."""
        form = self.query_one("#load", Form)
        if self.screen.focused is not None and form in self.screen.focused.ancestors:
            self.remove_class("-options")
            self.query_one("#filter").focus()
        else:
            self.add_class("-options")
            form.query("Input, Choice").first().focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        """Filter."""
        if event.input.id == "filter":
            self._show()

    def on_form_changed(self) -> None:
        """See what fits with these options."""
        self._sure_of = None
        self._rows = {path: self._judge(row) for path, row in self._rows.items()}
        self._show()

    def on_option_list_option_highlighted(self, event: OptionList.OptionHighlighted) -> None:
        """Show the details of another one."""
        event.stop()
        self._sure_of = None
        self._show_details()

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """Load what was clicked."""
        event.stop()
        self._load()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """Load the highlighted one."""
        event.stop()
        self._load()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Open the path that was typed, or load the highlighted one."""
        event.stop()
        if event.input.id == "filter" and _is_path(event.value):
            self._open(event.value.strip())
        else:
            self._load()

    def _open(self, text: str) -> None:
        """Look for models at a path, and go to the first of them."""
        path = next(iter(dropped_files(text)), Path(os.path.expanduser(text)).absolute())  # noqa: PTH111 (never raises)
        if path.exists():
            self._look_through(lambda: _find([path], usual=False), opened=path)
        else:
            self.app.say(f"There is no file or folder {path}.", "error")

    def _load(self) -> None:
        row, options = self.query_one(ModelTable).row, self._options()
        if row is None:
            return
        if options is None:
            self.add_class("-options")
            self.query_one("#load", Form).focus_problem()
        elif row.header is None:
            self.app.say(row.problem, "error")
        elif row.fits == "no" and self._sure_of != row.path and not options.force:
            self._sure_of = row.path
            sentence = will_it_fit(row.header, options, self._memory, gpu=self._gpu).sentence
            self.app.say(f"It does not fit: {sentence}. Enter again loads it all the same.", "warning")
        else:
            self._choose(row.path, replace(options, force=True) if row.fits == "no" else options)


NOTHING = (
    "No GGUF file was found in the usual places. Type the path of a file or folder above, or press F3 to download a "
    "model from the Hugging Face Hub."
)


def _find(folders: Iterable[Path], *, usual: bool) -> Iterator[ModelRow]:
    for found in find_models(folders, usual=usual):
        yield ModelRow(found.path, found.header, found.problem or "")


def _is_path(text: str) -> bool:
    text = text.strip()
    return text.startswith(PATH_STARTS) or text in ("~", ".", "..") or text.lower().endswith(".gguf")
