"""What was said, on disk: one SQLite file that several koala-tui may use at once."""

from .errors import NotFoundError, StoreError
from .records import Chat, Hit, StoredMessage
from .store import Store
from .whole import Put, WholeChat, WholeMessage

__all__ = ["Chat", "Hit", "NotFoundError", "Put", "Store", "StoreError", "StoredMessage", "WholeChat", "WholeMessage"]
