"""How the next token is chosen."""

import math
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace

from .errors import InputError

# llama.cpp takes a 32-bit seed and reads the highest value as "choose one yourself", which could not be reported.
SEEDS = 2**32 - 1
RANGES = {
    "temperature": (0, 100),
    "top_k": (0, 2**31 - 1),
    "top_p": (0, 1),
    "min_p": (0, 1),
    "repeat_penalty": (0.01, 100),
    "max_tokens": (1, 2**31 - 1),
    "seed": (0, SEEDS - 1),
}


@dataclass(frozen=True)
class Sampling:
    """The settings of one reply.

    `temperature` 0 is greedy: always the likeliest token. `top_k` 0, `top_p` 1 and `min_p` 0 switch these
    filters off, as `repeat_penalty` 1 does the penalty on the last 64 tokens. `max_tokens` is the most that a reply
    may have. A `seed` of None is drawn anew for each reply and reported with it.

    Raises:
        InputError: a value is outside its range.
    """

    temperature: float = 0.7
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    repeat_penalty: float = 1.0
    max_tokens: int = 2048
    seed: int | None = None

    def __post_init__(self) -> None:
        for name, (low, high) in RANGES.items():
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and low <= value <= high):
                raise InputError(f"the setting {name}={value} is out of range; it goes from {low} to {high}")

    def with_settings(self, settings: Iterable[str]) -> "Sampling":
        """Return a copy with each `key=value` of `settings` applied, the last one winning.

        Raises:
            InputError: an unknown key, a value that is no number, or one out of range.
        """
        kinds = {setting.name: int if "int" in str(setting.type) else float for setting in fields(self)}
        changes: dict[str, float | None] = {}
        for setting in settings:
            key, equals, text = (part.strip() for part in setting.partition("="))
            if key not in kinds or not equals:
                raise InputError(f"there is no setting {setting!r}; write KEY=VALUE with a key of {', '.join(kinds)}")
            if key == "seed" and text in ("", "random"):
                changes[key] = None
                continue
            try:
                changes[key] = kinds[key](text)
            except ValueError:
                wanted = "a whole number" if kinds[key] is int else "a number"
                raise InputError(f"the setting {key} needs {wanted}, not {text!r}") from None
        return replace(self, **changes)

    def with_seed(self) -> "Sampling":
        """Return these settings with a seed: their own, or else one drawn at random."""
        return self if self.seed is not None else replace(self, seed=secrets.randbelow(SEEDS))
