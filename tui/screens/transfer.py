"""Chats into a file, and out of one."""

import asyncio
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.widget import Widget
from textual.widgets import Button, Input, Static

from inference.errors import InputError

from .. import paths
from ..attachments import dropped_files
from ..exchange import ImportResult, export_chats, import_file
from ..store import StoreError
from ..text import harmless
from .dialog import Dialog
from .form import Choice
from .page import button

MAX_STEM = 40
SHOWN_PROBLEMS = 200


@dataclass(frozen=True)
class Form:
    """A form of a file: how it is called here and in `tui.exchange`, the end of its name, and what it is for."""

    name: str
    key: str
    suffix: str
    about: str


FORMS = (
    Form("Markdown", "markdown", ".md", "to be read, with all branches; it cannot be read in again"),
    Form("JSON Lines", "jsonl", ".jsonl", "everything there is; /import makes the same chats of it"),
    Form("ShareGPT", "sharegpt", ".json", "the branch that is shown, for training tools"),
    Form("ShareGPT, all branches", "sharegpt-branches", ".json", "each branch as a conversation of its own"),
)
THIS, ALL = "this chat", "all chats"


class ExportScreen(Dialog[None]):
    """What to write, in which form, and where to. A file that is there is replaced only when that is said twice."""

    HEADING = "Export"
    CSS_PATH = ["dialog.tcss", "transfer.tcss"]  # noqa: RUF012 - the name and the type are Textual's
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "app.focus_previous", "Up", show=False),
        Binding("down", "app.focus_next", "Down", show=False),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._suggested = ""
        self._replaces: Path | None = None
        self._is_writing = False

    def content(self) -> Iterable[Widget]:
        """Yield the rows."""
        what = [THIS, ALL] if (self.app.chat_id or 0) > 0 else [ALL]
        with Horizontal(classes="row"):
            yield Static("what", classes="label")
            yield Choice(what, what[0], id="what")
        with Horizontal(classes="row"):
            yield Static("form", classes="label")
            yield Choice([form.name for form in FORMS], FORMS[0].name, id="form")
        yield Static(id="about", classes="muted", markup=False)
        with Horizontal(classes="row"):
            yield Static("file", classes="label")
            yield Input(id="path", select_on_focus=False)
        yield Static(id="problem", markup=False)
        with Horizontal(classes="row"):
            yield button("Export", classes="-main")
        yield Static("←→ choose · Enter exports · Esc leaves", classes="muted", markup=False)

    def on_mount(self) -> None:
        """Suggest a file."""
        self._complain("")
        self._suggest()

    @property
    def _form(self) -> Form:
        return next(form for form in FORMS if form.name == self.query_one("#form", Choice).value)

    @property
    def _is_all(self) -> bool:
        return self.query_one("#what", Choice).value == ALL

    def _suggest(self) -> None:
        """Show what the form is for, and suggest a file, unless the user has named one."""
        self.query_one("#about", Static).update(self._form.about)
        field = self.query_one("#path", Input)
        if field.value == self._suggested:
            title = "all chats" if self._is_all else self.app.store.chat(self.app.chat_id).title
            self._suggested = field.value = str(free_file(paths.exports_folder(), title, self._form.suffix))

    def on_choice_changed(self) -> None:
        """Suggest another file."""
        self._complain("")
        self._suggest()

    def on_input_changed(self) -> None:
        """Take back what was said about another file."""
        self._complain("")

    def on_input_submitted(self) -> None:
        """Export."""
        self._export()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """Export."""
        self._export()

    def _complain(self, problem: str) -> None:
        self._replaces = None
        line = self.query_one("#problem", Static)
        line.update(harmless(problem))
        line.display = bool(problem)

    def _export(self) -> None:
        text = self.query_one("#path", Input).value.strip()
        if not text or self._is_writing:
            return
        path = Path(text).expanduser().absolute()
        if path.is_dir():
            self._complain(f"{path} is a folder; name a file in it")
        elif path.exists() and self._replaces != path:
            self._complain(f"{path} is there already; Enter again replaces it")
            self._replaces = path
        else:
            self._is_writing = True
            self.run_worker(self._write(path), group="export")

    async def _write(self, path: Path) -> None:
        chats = None if self._is_all else [self.app.chat_id]
        try:
            count = await asyncio.to_thread(export_chats, self.app.store, chats, self._form.key, path)
        except (InputError, StoreError) as error:
            self._is_writing = False
            self._complain(str(error))
            return
        self.app.say(f"{_count(count, 'chat')} written to {path}")
        self.dismiss(None)


class ImportScreen(Dialog[None]):
    """The file to read, and afterwards a report of what came in and what did not."""

    HEADING = "Import"
    CSS_PATH = ["dialog.tcss", "transfer.tcss"]  # noqa: RUF012 - the name and the type are Textual's

    def content(self) -> Iterable[Widget]:
        """Yield the field and the report."""
        yield Static(
            "A file that koala-tui wrote (JSON Lines), a ShareGPT file, or the conversations.json of a ChatGPT export.",
            markup=False,
        )
        yield Input(placeholder="its path; you can drop the file here", id="path")
        with VerticalScroll(id="report", can_focus=False), Vertical():
            yield Static(id="problem", markup=False)
            yield Static(id="came", markup=False)
            yield Static(id="left-out", classes="muted", markup=False)
        with Horizontal(classes="row"):
            yield button("Import", classes="-main")
        yield Static("Enter imports · Esc leaves", classes="muted", markup=False)

    def on_mount(self) -> None:
        """Begin with the field alone."""
        self._report()

    def on_input_submitted(self) -> None:
        """Import."""
        self._import()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """Import."""
        self._import()

    def _import(self) -> None:
        text = self.query_one("#path", Input).value.strip()
        if text:
            path = next(iter(dropped_files(text)), Path(text).expanduser().absolute())
            self._report(came="reading …")
            self.run_worker(self._read(path), group="import", exclusive=True)

    async def _read(self, path: Path) -> None:
        def progress(records: int) -> None:
            self.app.call_from_thread(self._report, came=f"reading … {records:,} chats")

        try:
            result = await asyncio.to_thread(import_file, self.app.store, path, _now_and_then(progress))
        except (InputError, StoreError) as error:
            self._report(problem=str(error))
            return
        self.app.screen_of_chats.chat_list.reload()
        self._report(came=what_came(result), left_out="\n".join(result.skipped[:SHOWN_PROBLEMS]))
        self.query_one("#report").can_focus = len(result.skipped) > 1

    def _report(self, *, problem: str = "", came: str = "", left_out: str = "") -> None:
        if self.is_attached:
            for name, text in {"problem": problem, "came": came, "left-out": left_out}.items():
                line = self.query_one(f"#{name}", Static)
                line.update(harmless(text))
                line.display = bool(text)


def what_came(result: ImportResult) -> str:
    """Return in a sentence or two what an import brought."""
    came = f"{_count(result.chats, 'chat')} came in, with {_count(result.messages, 'message')}."
    parts = [came if result.chats else "Nothing new came in."]
    if result.known:
        parts.append(f"{_count(result.known, 'chat')} had been there already.")
    if result.skipped:
        shown = f" The first {SHOWN_PROBLEMS}:" if len(result.skipped) > SHOWN_PROBLEMS else ""
        parts.append(f"{_count(len(result.skipped), 'record')} could not be used.{shown}")
    return " ".join(parts)


def free_file(folder: Path, title: str, suffix: str) -> Path:
    """Return a path in the folder that is named after the title and the day, and where nothing is yet."""
    words = re.sub(r"[\W_]+", "-", title.lower())[:MAX_STEM].strip("-") or "chat"
    stem = f"{words}-{date.today().isoformat()}"
    names = [f"{stem}{suffix}", *(f"{stem}-{number}{suffix}" for number in range(2, 1000))]
    return next((folder / name for name in names if not (folder / name).exists()), folder / names[0])


def _now_and_then(progress, every: int = 50):
    return lambda records: progress(records) if records % every == 0 else None


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"
