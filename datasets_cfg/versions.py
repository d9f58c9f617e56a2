"""Which code made a file: for manifests and model cards."""

import subprocess
from importlib.metadata import version
from pathlib import Path


def versions(*packages: str) -> dict[str, str | None]:
    """Koala's version and, in a checkout, its commit; then the versions of installed packages by name."""
    return {"koala": version("koala"), "commit": _commit(), **{name: version(name) for name in packages}}


def _commit() -> str | None:
    root = Path(__file__).parents[1]
    if not (root / ".git").exists():
        return None
    try:
        told = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
        )
    except OSError:
        return None  # there is no git
    return told.stdout.strip() if told.returncode == 0 else None
