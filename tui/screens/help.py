"""The help: what to expect of a model, every key and command, and what is in effect of the loaded model."""

import os
from collections.abc import Iterable
from textwrap import wrap

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
    }
    """

    def content(self) -> Iterable[Widget]:
        """Yield one text, and the keys that scroll it."""
        with VerticalScroll():
            yield Static(id="help-text")
        yield Static("↑↓ scroll · Esc leaves", classes="muted", markup=False)

    def on_mount(self) -> None:
        """Let the arrow keys scroll."""
        self.query_one(VerticalScroll).focus()

    def on_resize(self) -> None:
        """Fold the text to the width."""
        self.call_after_refresh(self._write)

    def _write(self) -> None:
        width = max(30, self.query_one(VerticalScroll).scrollable_content_region.width - 1)
        host = self.app.host
        parts = [Content("\n".join(wrap(honesty(host.target.url if isinstance(host.target, Endpoint) else ""), width)))]
        sections = {heading: self._commands(place) for place, heading in PLACES.items()}
        sections |= {"The model": self._facts(), "Files": self._files()}
        for heading, rows in sections.items():
            parts.append(Content.styled(heading, "bold $primary") + "\n" + _table(rows, width))
        self.query_one("#help-text", Static).update(Content("\n\n").join(parts))

    def _commands(self, place: str) -> list[tuple[str, str]]:
        keys = self.app.config.keys
        return [
            (", ".join(filter(None, [key_names(each, keys), usage(each)])), each.help)
            for each in COMMANDS
            if each.where == place
        ]

    def _facts(self) -> list[tuple[str, str]]:
        host = self.app.host
        if host.loaded is None:
            return [(host.state, str(host.error or ""))]
        return list(facts(host.loaded).items())

    def _files(self) -> list[tuple[str, str]]:
        from .. import paths

        files = {
            "chats": paths.store_file(),
            "settings": paths.config_file(),
            "models": paths.models_folder(),
            "what models have read": paths.sequences_folder(),
        }
        home = os.path.expanduser("~")  # noqa: PTH111 (never raises)
        return [(name, str(path).replace(home, "~", 1)) for name, path in files.items()]


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


def _table(rows: list[tuple[str, str]], width: int) -> Content:
    """Return the rows with their second column folded under itself."""
    first = min(max((len(left) for left, _ in rows), default=0), width // 2)
    lines: list[Content] = []
    for left, right in rows:
        folded = wrap(harmless(right).replace("\n", " "), max(10, width - first - 2)) or [""]
        if len(left) > first:
            lines.append(Content.styled(left, "bold $secondary"))
            left = ""
        lines.append(Content.assemble((left.ljust(first), "bold $secondary"), f"  {folded[0]}"))
        lines += [Content(" " * (first + 2) + rest) for rest in folded[1:]]
    return Content("\n").join(lines)
