"""What the app remembers by itself from one start to the next: the model used last, the theme chosen, and the like.

It is a convenience: where it cannot be read or written, the app starts as if it were new, and nothing is said.
"""

import contextlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from . import paths


def recall() -> dict[str, Any]:
    """Return what was remembered, by name."""
    try:
        values = json.loads(paths.state_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def remember(**changes: Any) -> None:
    """Keep these values, which JSON must be able to hold, beside what is remembered already; None forgets one."""
    values = {name: value for name, value in (recall() | changes).items() if value is not None}
    file = paths.state_file()
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as target:
                json.dump(values, target, indent=1)
            Path(temporary).replace(file)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
