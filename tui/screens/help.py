"""The help: what to expect of a model, every key and command, and what is in effect of the loaded model."""

import os
from collections.abc import Iterable

from textual.containers import VerticalScroll
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Static

from inference.events import Loaded

from ..commands import COMMANDS, PLACES, key_names, usage
from ..honesty import honesty
from ..model_host import Endpoint
from ..text import harmless
from ..widgets.empty_state import short_count
from .dialog import Dialog


class HelpScreen(Dialog[None]):
    """One text that scrolls."""

    HEADING = "Help"
    DEFAULT_CSS = """
    HelpScreen {
        & > Vertical { height: 92%; width: 92; }
        & VerticalScroll { scrollbar-size-vertical: 1; }
        & .section { color: $primary; text-style: bold; margin-top: 1; }
    }
    """

    def content(self) -> Iterable[Widget]:
        """Yield the sections."""
        with VerticalScroll():
            host = self.app.host
            yield Static(honesty(host.target.url if isinstance(host.target, Endpoint) else ""), markup=False)
            for place, heading in PLACES.items():
                yield Static(heading, classes="section", markup=False)
                yield Static(self._commands(place))
            yield Static("The model", classes="section", markup=False)
            yield Static(self._facts())
            yield Static("Files", classes="section", markup=False)
            yield Static(self._files())
        yield Static("↑↓ scroll · Esc leaves", classes="muted", markup=False)

    def on_mount(self) -> None:
        """Let the arrow keys scroll."""
        self.query_one(VerticalScroll).focus()

    def _commands(self, place: str) -> Content:
        keys = self.app.config.keys
        rows = [(key_names(each, keys), usage(each), each.help) for each in COMMANDS if each.where == place]
        return _table([row if any(each[1] for each in rows) else (row[0], row[2], "") for row in rows])

    def _facts(self) -> Content:
        host = self.app.host
        if host.loaded is None:
            return Content(harmless(str(host.error)) if host.error is not None else "No model is loaded.")
        return _table([(name, harmless(value), "") for name, value in facts(host.loaded).items()])

    def _files(self) -> Content:
        from .. import paths

        files = {
            "chats": paths.store_file(),
            "settings": paths.config_file(),
            "models": paths.models_folder(),
            "read conversations": paths.sequences_folder(),
        }
        home = os.path.expanduser("~")  # noqa: PTH111 (never raises)
        return _table([(name, harmless(str(path).replace(home, "~", 1)), "") for name, path in files.items()])


def facts(loaded: Loaded) -> dict[str, str]:
    """Return everything that is in effect, by what it is called; what an endpoint does not tell is left out."""
    found = {
        "name": loaded.name,
        "description": loaded.description,
        "parameters": short_count(loaded.parameters, ("", "k", "M", "B", "T")) if loaded.parameters else "",
        "weights": short_count(loaded.size_bytes, (" B", " kB", " MB", " GB", " TB")) if loaded.size_bytes else "",
        "context": f"{loaded.n_ctx:,} tokens" + (f" of {loaded.n_ctx_train:,}" if loaded.n_ctx_train else ""),
        "vocabulary": f"{loaded.n_vocab:,} tokens" if loaded.n_vocab else "",
        "template": loaded.template,
        "fingerprint": loaded.fingerprint[:16],
    }
    if loaded.n_threads:  # on this machine
        found |= {
            "threads": str(loaded.n_threads),
            "GPU layers": str(loaded.n_gpu_layers),
            "KV cache": f"{loaded.kv_type}, {short_count(loaded.state_bytes, (' B', ' kB', ' MB', ' GB', ' TB'))}",
            "flash attention": "on" if loaded.flash_attention else "off",
            "mmap": "on" if loaded.mmap else "off",
        }
    return {name: value for name, value in found.items() if value}


def _table(rows: list[tuple[str, str, str]]) -> Content:
    first = max((len(row[0]) for row in rows), default=0)
    second = max((len(row[1]) for row in rows if row[2]), default=0)
    return Content("\n").join(
        Content.assemble((row[0].rjust(first), "bold $secondary"), f"  {row[1].ljust(second)}", f"  {row[2]}".rstrip())
        for row in rows
    )
