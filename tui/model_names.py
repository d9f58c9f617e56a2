"""A model by its name, instead of by the path of its file."""

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

from inference.errors import InputError
from inference.scan import Found, find_models

SHOWN_NAMES = 8


def name_of(found: Found) -> str:
    """Return what a model is called where there are many: its file without .gguf, or the name that Ollama gave it."""
    return found.header.name if found.place == "Ollama" and found.header is not None else found.path.stem


def find_by_name(name: str, folders: Iterable[Path]) -> Path:
    """Return the file of the model of this name, or that calls itself so, or the only one with this in its name.

    Of several files with the very same name the first one found is taken, as a shell does with commands.

    Raises:
        InputError: there is no such model, there are several, or nobody can chat with it.
    """
    wanted = name.lower().removesuffix(".gguf")
    known: list[Found] = []
    for found in find_models(folders):
        if name_of(found).lower() == wanted:
            return _usable(found)
        known.append(found)
    matching = (
        [found for found in known if wanted == _own_name(found).lower()]
        or [found for found in known if wanted in name_of(found).lower()]
        or [found for found in known if wanted in _own_name(found).lower()]
    )
    if len(matching) == 1:
        return _usable(matching[0])
    if matching:
        raise InputError(f"{name!r} may be any of {_listed(matching)}; give more of the name, or the path")
    near = _near(wanted, known)
    hint = f"did you mean {' or '.join(near)}?" if near else "koala-tui --list shows those on this machine"
    raise InputError(f"there is no file {name}, and no model of that name was found; {hint}")


def _own_name(found: Found) -> str:
    return found.header.name if found.header is not None else ""


def _usable(found: Found) -> Path:
    if found.problem is not None:
        raise InputError(found.problem)
    return found.path


def _listed(models: list[Found]) -> str:
    shown = sorted({name_of(found) for found in models})
    more = f" and {len(shown) - SHOWN_NAMES} more" if len(shown) > SHOWN_NAMES else ""
    return ", ".join(shown[:SHOWN_NAMES]) + more


def _near(wanted: str, known: list[Found]) -> list[str]:
    by_key = {each.lower(): each for found in known for each in (_own_name(found), name_of(found))}
    return [by_key[key] for key in get_close_matches(wanted, by_key, n=3, cutoff=0.5)]
