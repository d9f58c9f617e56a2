"""How a chat is answered: what its own settings say, and the defaults for the rest."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from inference.errors import InputError
from inference.sampling import Sampling

from .config import Preset


@dataclass(frozen=True)
class ChatSettings:
    """The sampling, the system prompt (None for none) and the name of the preset last chosen, if there was one."""

    sampling: Sampling
    system: str | None = None
    preset: str | None = None

    def with_preset(self, name: str, preset: Preset) -> "ChatSettings":
        """Return these settings after the choice of a preset."""
        system = self.system if preset.system is None else preset.system or None
        return ChatSettings(preset.apply(self.sampling), system, name)

    def to_store(self, defaults: "ChatSettings") -> dict[str, Any]:
        """Return what differs from the defaults, as the store keeps it."""
        base = asdict(defaults.sampling)
        changed = {name: value for name, value in asdict(self.sampling).items() if value != base[name]}
        values: dict[str, Any] = {"sampling": changed} if changed else {}
        if self.system != defaults.system:
            values["system"] = self.system
        if self.preset != defaults.preset:
            values["preset"] = self.preset
        return values


def from_store(values: Mapping[str, Any], defaults: ChatSettings) -> ChatSettings:
    """Return the settings that the store keeps; what cannot be used any more is as if it had not been set."""
    sampling = defaults.sampling
    stored = values.get("sampling")
    for name, value in stored.items() if isinstance(stored, dict) else ():
        try:
            sampling = replace(sampling, **{name: value})
        except (InputError, TypeError):
            continue
    system, preset = values.get("system", defaults.system), values.get("preset", defaults.preset)
    return ChatSettings(
        sampling, system if isinstance(system, str) else None, preset if isinstance(preset, str) else None
    )
