"""Access to the fields of a record that somebody else wrote: what is missing or of another kind is named."""

from collections.abc import Mapping
from typing import Any

LATEST_MOMENT = 253_402_300_799  # the end of the year 9999


class Unusable(ValueError):
    """A record is no chat that can be imported; the message says why, to go on after "record 3: "."""


def text(fields: Mapping[str, Any], name: str) -> str:
    """Return the text in the field.

    Raises:
        Unusable: it is missing, or no text.
    """
    if not isinstance(fields.get(name), str):
        raise Unusable(f"'{name}' must be a text" if name in fields else f"it has no '{name}'")
    return fields[name]


def optional_text(fields: Mapping[str, Any], name: str) -> str:
    """Return the text in the field, "" where it is missing or no text."""
    value = fields.get(name)
    return value if isinstance(value, str) else ""


def objects(fields: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """Return the list of objects in the field.

    Raises:
        Unusable: it is missing, no list, or holds something else.
    """
    values = fields.get(name)
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise Unusable(f"'{name}' must be a list of objects" if name in fields else f"it has no '{name}'")
    return values


def moment(fields: Mapping[str, Any], name: str) -> float | None:
    """Return the time in the field, in seconds since 1970; None where it is missing or cannot be a time."""
    value = fields.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) <= LATEST_MOMENT else None
