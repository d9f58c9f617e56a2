"""Which models lie on this machine, in the places where programs for local models keep them.

Only headers are read, so a disk full of models takes a second or two; what is found comes at once.
"""

import json
import os
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from .errors import InputError
from .gguf_header import PART_NAME, GGUFHeader, check_chat_model, read_header

MAX_ENTRIES = 50_000  # that are looked at in one place
MAX_MANIFEST_BYTES = 2**20
OLLAMA_MODEL = "application/vnd.ollama.image.model"


@dataclass(frozen=True)
class Found:
    """A file that should be a model: its `header`, or the `problem` why nobody can chat with it, in a sentence.

    `place` says whose folder it lies in, such as "Ollama", or is empty for a folder that the caller named.
    """

    path: Path
    header: GGUFHeader | None
    problem: str | None = None
    place: str = ""


class Place(NamedTuple):
    """A folder in which models may lie, at most `depth` folders deep."""

    name: str
    folder: Path
    depth: int


def find_models(folders: Iterable[str | Path] = (), *, usual: bool = True) -> Iterator[Found]:
    """Yield the models in these folders, or at these paths, and then those in the `usual` places of the machine.

    A file that can be reached in several ways is found once. Files that belong to another model, such as its further
    parts, are left out. What cannot be read is passed over.
    """
    seen: set[tuple[int, int]] = set()
    places = [Place("", _expanded(folder), 8) for folder in folders]
    for place in [*places, *(usual_places() if usual else ())]:
        for path in _files(place):
            if _is_new(path, seen) and (found := _look(path, place.name)):
                yield found
    if usual:
        for path, name in _ollama_models():
            if _is_new(path, seen) and (found := _look(path, "Ollama")):
                yield found if found.header is None else replace(found, header=replace(found.header, name=name))


def usual_places() -> list[Place]:
    """Return the folders that are looked through on this machine, Ollama's aside, which keeps no files by name."""
    home, cache = _expanded("~"), _folder("XDG_CACHE_HOME", "~/.cache")
    local_cache, data = cache, _folder("XDG_DATA_HOME", "~/.local/share")
    if sys.platform == "darwin":
        local_cache, data = home / "Library/Caches", home / "Library/Application Support"
    elif sys.platform == "win32":
        local_cache = data = _folder("LOCALAPPDATA", "~/AppData/Local")
    hub_home = _folder("HF_HOME", str(cache / "huggingface"))
    hub = _folder("HF_HUB_CACHE", os.environ.get("HUGGINGFACE_HUB_CACHE") or str(hub_home / "hub"))
    snapshots = sorted(hub.glob("models--*/snapshots"))
    return [
        Place("this folder", Path(), 3),
        Place("~/models", home / "models", 5),
        *(Place("Hugging Face Hub", folder, 4) for folder in snapshots),
        Place("LM Studio", home / ".lmstudio" / "models", 4),
        Place("LM Studio", cache / "lm-studio" / "models", 4),
        Place("llama.cpp", _folder("LLAMA_CACHE", str(local_cache / "llama.cpp")), 2),
        Place("GPT4All", data / "nomic.ai" / "GPT4All", 2),
    ]


def _folder(variable: str, default: str) -> Path:
    return _expanded(os.environ.get(variable) or default)


def _expanded(path: str | Path) -> Path:
    # Path.expanduser raises where there is no such home.
    return Path(os.path.expanduser(path))  # noqa: PTH111


def _look(path: Path, place: str) -> Found | None:
    try:
        header = read_header(path)
        if header.metadata.get("general.type") == "mmproj" or header.architecture == "clip":
            return None
        check_chat_model(header)
    except InputError as error:
        return Found(path, None, str(error), place)
    return Found(path, header, None, place)


def _is_new(path: Path, seen: set[tuple[int, int]]) -> bool:
    """Tell whether the file is there and has not been seen under another name."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return False
    key = (status.st_dev, status.st_ino)
    new = key not in seen
    seen.add(key)
    return new


def _files(place: Place) -> Iterator[Path]:
    """Yield the GGUF files of a place, in the order of their names."""
    if place.folder.is_file():
        yield place.folder
        return
    try:
        top = place.folder.absolute()
    except OSError:  # the working folder was removed
        return
    for path in _walk(top, place.depth):
        part = PART_NAME.fullmatch(path.name)
        if path.suffix.lower() == ".gguf" and (part is None or int(part["number"]) < 2):
            yield path


def _walk(top: Path, depth: int) -> Iterator[Path]:
    """Yield what lies in the folder and is no folder, without hidden entries.

    Links are followed, but not in circles, and not for ever.
    """
    left = MAX_ENTRIES

    def walk(folder: Path, depth: int, above: frozenset[tuple[int, int]]) -> Iterator[Path]:
        nonlocal left
        try:
            status = folder.stat()
            with os.scandir(folder) as listing:
                entries = sorted(islice(listing, left), key=lambda entry: entry.name)
        except (OSError, ValueError):
            return
        key = (status.st_dev, status.st_ino)
        if key in above:
            return
        left -= len(entries)
        folders = []
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if _is_folder(entry):
                folders.append(folder / entry.name)
            else:
                yield folder / entry.name
        for inner in folders if depth > 0 else ():
            yield from walk(inner, depth - 1, above | {key})

    return walk(top, depth, frozenset())


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _ollama_models() -> Iterator[tuple[Path, str]]:
    """Yield the files of Ollama's models, which are named after their content, with the names that they go by there."""
    roots = [_folder("OLLAMA_MODELS", "~/.ollama/models"), Path("/usr/share/ollama/.ollama/models")]
    for root in roots:
        manifests = root / "manifests"
        for path in _walk(manifests, 5):
            digest = _model_digest(path)
            parts = path.relative_to(manifests).parts
            if digest and len(parts) >= 2:
                *owner, model, tag = parts
                # What comes from Ollama's own library is known by its bare name.
                owner = owner[1:] if owner[:1] == ["registry.ollama.ai"] else owner
                owner = owner[1:] if owner[:1] == ["library"] else owner
                yield root / "blobs" / digest, f"{'/'.join([*owner, model])}:{tag}"


def _model_digest(manifest: Path) -> str | None:
    """Return the name of the file with the weights that an Ollama manifest names."""
    try:
        if manifest.stat().st_size > MAX_MANIFEST_BYTES:
            return None
        layers = json.loads(manifest.read_bytes())["layers"]
        digest = next(str(layer["digest"]) for layer in layers if layer["mediaType"] == OLLAMA_MODEL)
    except (OSError, ValueError, LookupError, TypeError, RecursionError, StopIteration):
        return None
    return digest.replace(":", "-") if re.fullmatch(r"sha256[:-][0-9a-f]{64}", digest) else None
