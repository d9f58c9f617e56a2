"""What was said, on disk: one SQLite file that several koala-tui may use at once."""

from .errors import StoreError
from .records import Chat, Hit, StoredMessage
from .store import Store

__all__ = ["Chat", "Hit", "Store", "StoreError", "StoredMessage"]
