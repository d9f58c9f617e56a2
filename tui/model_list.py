"""`koala-tui --list`: the models on this machine."""

import json
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from inference.errors import InputError
from inference.fit import will_it_fit
from inference.load_options import LoadOptions
from inference.machine import Memory, usable_memory
from inference.scan import find_models

from . import paths
from .hub import size_text
from .model_names import name_of
from .text import harmless

if TYPE_CHECKING:
    from inference.scan import Found

HEADS = ("name", "quant", "size", "params", "context", "template", "fits", "path")
TO_THE_RIGHT = ("size", "params", "context")
NAME_CELLS = 40
GAP = "  "
NOTHING = (
    "note: no model was found; koala-tui --pull OWNER/NAME downloads one, and `folders` in the config adds places\n"
)


def list_models(out: TextIO, err: TextIO, as_json: bool, folders: Iterable[str | Path] = ()) -> int:
    """Write the models in the app's own folder, in `folders` and in the usual places to `out`; return the exit code, 0.

    That is a table, or with `as_json` one object a line, as they are found. Files that nobody could chat with are named
    on `err`, and in JSON with a `problem`.
    """
    memory = usable_memory()
    if err.isatty() and not as_json:
        err.write("looking for models …")
        err.flush()
    models, problems = [], []
    for found in find_models([paths.models_folder(), *folders]):
        if as_json:
            out.write(json.dumps(_facts(found, memory)) + "\n")
            out.flush()
        (models if found.header is not None else problems).append(found)
    if err.isatty() and not as_json:
        err.write("\r\x1b[2K")
        err.flush()
    if models and not as_json:
        _write_table([_row(found, memory) for found in models], out)
        out.flush()
    for found in problems if not as_json else ():
        err.write(f"note: {_line(found.problem or str(found.path))}\n")
    if not models:
        err.write(NOTHING)
    return 0


def _facts(found: "Found", memory: Memory | None) -> dict[str, object]:
    """Return what --json says about a file; sizes are in bytes, the context is in tokens."""
    facts: dict[str, object] = {"name": name_of(found), "path": str(found.path), "place": found.place}
    if found.header is None:
        return facts | {"problem": found.problem}
    header = found.header
    fits, why = _fit(found, memory)
    return facts | {
        "model": header.name,
        "architecture": header.architecture,
        "quantization": header.quantization,
        "size": header.size_bytes,
        "parameters": header.parameters,
        "context": header.context_length or None,
        "template": "own" if header.chat_template else None,
        "fits": fits,
        "memory": why,
    }


def _row(found: "Found", memory: Memory | None) -> tuple[str, ...]:
    header = found.header
    return (
        _cut(_line(name_of(found))),
        _line(header.quantization),
        size_text(header.size_bytes),
        _count(header.parameters),
        f"{header.context_length:,}" if header.context_length else "?",
        "own" if header.chat_template else "none",
        _fit(found, memory)[0],
        harmless(str(found.path)).replace("\n", "␊").replace("\t", "␉"),
    )


def _fit(found: "Found", memory: Memory | None) -> tuple[str, str]:
    if memory is None:
        return "?", "how much memory there is, this system does not tell"
    try:
        return will_it_fit(found.header, LoadOptions(), memory)
    except InputError as error:
        return "?", str(error)


def _write_table(rows: Sequence[tuple[str, ...]], out: TextIO) -> None:
    widths = [max(map(_cells, column)) for column in zip(HEADS, *rows, strict=True)]
    for row in [HEADS, *rows]:
        texts = []
        for head, text, width in zip(HEADS, row, widths, strict=True):
            blank = " " * (width - _cells(text))
            texts.append(blank + text if head in TO_THE_RIGHT else text + blank)
        out.write(GAP.join(texts).rstrip() + "\n")


def _count(parameters: int) -> str:
    amount, units = float(parameters), ["", "k", "M", "B", "T"]
    while amount >= 1000 and len(units) > 1:
        amount, units = amount / 1000, units[1:]
    return f"{amount:.3g}{units[0]}"


def _line(text: str) -> str:
    """Return the text as one harmless line."""
    return " ".join(harmless(text).split())


def _cut(text: str) -> str:
    while _cells(text) > NAME_CELLS:
        text = text.rstrip("…")[:-1] + "…"
    return text


def _cells(text: str) -> int:
    """Return how many cells of the terminal the text takes."""
    wide = {"W": 2, "F": 2}
    return sum(0 if unicodedata.combining(sign) else wide.get(unicodedata.east_asian_width(sign), 1) for sign in text)
