"""Sampling settings that go together: those of the config file, and those that were saved in the app.

The app never writes the config file, so what is saved in it lies with what the app remembers.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from inference.errors import InputError
from inference.sampling import Sampling

from . import state
from .config import Preset

MAX_NAME = 40


def all_presets(configured: Mapping[str, Preset]) -> dict[str, Preset]:
    """Return the presets by name: those of the config file (with the built-in ones), then the saved ones.

    A saved one takes the place of a configured one with its name. What cannot be used any more is left out.
    """
    return {**configured, **saved_presets()}


def saved_presets() -> dict[str, Preset]:
    """Return the presets that were saved in the app."""
    values = state.recall().get("presets")
    found = {name: _preset(value) for name, value in values.items()} if isinstance(values, dict) else {}
    return {name: preset for name, preset in found.items() if preset is not None}


def save_preset(name: str, sampling: Sampling, system: str | None) -> None:
    """Keep these settings under the name, in place of what was saved there before. The seed is no part of it.

    Raises:
        InputError: the name cannot be one.
    """
    if not name or len(name) > MAX_NAME or not name.isprintable():
        raise InputError(f"a preset needs a name of 1 to {MAX_NAME} printable characters")
    values = {key: value for key, value in asdict(sampling).items() if key != "seed"}
    kept = state.recall().get("presets")
    kept = kept if isinstance(kept, dict) else {}
    state.remember(presets={**kept, name: {"sampling": values, "system": system}})


def delete_preset(name: str) -> None:
    """Forget a saved preset."""
    kept = state.recall().get("presets")
    if isinstance(kept, dict):
        kept.pop(name, None)
        state.remember(presets=kept)


def _preset(value: Any) -> Preset | None:
    try:
        sampling, system = dict(value["sampling"]), value.get("system")
        Sampling(**sampling)
    except (InputError, TypeError, ValueError, KeyError, AttributeError):
        return None
    return Preset(sampling, system if isinstance(system, str) else None)
