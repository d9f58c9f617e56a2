"""Chats out of the store and back: Markdown, JSON Lines, ShareGPT, and what ChatGPT exports."""

from .exporting import FORMS, export_chats
from .importing import ImportResult, import_file

__all__ = ["FORMS", "ImportResult", "export_chats", "import_file"]
