"""Where koala-tui keeps what: chats, models, settings, and what it can do without.

With the environment variable KOALA_HOME everything lies in that one folder, to carry it along or to try things out.
Nothing here makes a folder; whoever writes first does.
"""

import os
from pathlib import Path

APP = "koala-tui"


def store_file() -> Path:
    """Return the database of the chats."""
    return _folder("data") / "chats.db"


def models_folder() -> Path:
    """Return the folder into which models are downloaded, and which is looked through first."""
    return _folder("data") / "models"


def exports_folder() -> Path:
    """Return the folder for what is written where nobody named a place, such as a code block that no clipboard took."""
    return _folder("data") / "exports"


def config_file() -> Path:
    """Return the user's settings, which the app never writes."""
    return _folder("config") / "config.yaml"


def state_file() -> Path:
    """Return what the app itself remembers, such as the model used last."""
    return _folder("state") / "state.json"


def sequences_folder() -> Path:
    """Return the folder with conversations as the models read them, so that they need not be read again."""
    return _folder("cache") / "sequences"


def _folder(kind: str) -> Path:
    home = os.environ.get("KOALA_HOME")
    if home:
        return Path(home).expanduser().absolute() / ("cache" if kind == "cache" else "")
    from platformdirs import PlatformDirs

    return getattr(PlatformDirs(APP, appauthor=False), f"user_{kind}_path")
