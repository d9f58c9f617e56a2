"""How a model is loaded."""

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Any

from .errors import InputError

KV_TYPES = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0")
FLAGS = {"on": True, "true": True, "yes": True, "off": False, "false": False, "no": False}
RANGES = {"n_ctx": (8, 2**31 - 1), "n_threads": (1, 1024), "n_gpu_layers": (-1, 100_000)}


@dataclass(frozen=True)
class LoadOptions:
    """What the user wants of a model's process; None leaves the choice to the machine.

    `n_ctx` is in tokens, `n_gpu_layers` counts layers (-1 is all of them), `kv_type` is the type of the KV cache.
    `template` is the name of a built-in prompt format or a file with a Jinja template, in place of the model's own.
    Conversations that were read once are kept in `cache_dir`, in at most `cache_bytes`; without a folder they are not.
    `force` loads a model that the memory is too small for.

    Raises:
        InputError: a value is outside its range.
    """

    n_ctx: int | None = None
    n_threads: int | None = None
    n_gpu_layers: int | None = None
    kv_type: str | None = None
    flash_attention: bool | None = None
    mmap: bool | None = None
    template: str | None = None
    cache_dir: str | None = None
    cache_bytes: int = 4 * 2**30
    force: bool = False

    def __post_init__(self) -> None:
        for name, (low, high) in RANGES.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise InputError(f"the setting {name}={value} is out of range; it goes from {low} to {high}")
        if self.kv_type is not None and self.kv_type not in KV_TYPES:
            raise InputError(f"there is no KV cache type {self.kv_type!r}; choose one of {', '.join(KV_TYPES)}")

    def with_settings(self, settings: Iterable[str]) -> "LoadOptions":
        """Return a copy with each `key=value` of `settings` applied, the last one winning; "auto" means None.

        Raises:
            InputError: an unknown key, or a value that does not fit it.
        """
        kinds = {field.name: str(field.type) for field in fields(self)}
        changes: dict[str, Any] = {}
        for setting in settings:
            key, equals, text = (part.strip() for part in setting.partition("="))
            if key not in kinds or not equals:
                raise InputError(f"there is no setting {setting!r}; write KEY=VALUE with a key of {', '.join(kinds)}")
            changes[key] = _value(key, kinds[key], text)
        return replace(self, **changes)


def _value(key: str, kind: str, text: str) -> Any:
    if text == "auto" and "None" in kind:
        return None
    if "bool" in kind:
        if text.lower() not in FLAGS:
            raise InputError(f"the setting {key} needs on or off, not {text!r}")
        return FLAGS[text.lower()]
    if "int" in kind:
        try:
            return int(text)
        except ValueError:
            raise InputError(f"the setting {key} needs a whole number, not {text!r}") from None
    return text
