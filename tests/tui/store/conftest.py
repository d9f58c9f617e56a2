"""Stores for tests: one in a file, and what is in it in a form that can be compared."""

from pathlib import Path

import pytest

from tui.store import Store


@pytest.fixture
def path(tmp_path) -> Path:
    """Where the store of a test is."""
    return tmp_path / "data" / "chats.db"


@pytest.fixture
def store(path):
    """An empty store in a file."""
    opened = Store.open(path)
    yield opened
    opened.close()


def talk(store: Store, *texts: str, title: str = "") -> tuple[int, list[int]]:
    """Add a chat in which user and assistant say these texts in turn; return its id and those of the messages."""
    chat = store.create_chat(title)
    messages: list[int] = []
    for place, text in enumerate(texts):
        role = ("user", "assistant")[place % 2]
        messages.append(store.add_message(chat, messages[-1] if messages else None, role, text))
    return chat, messages


def said(store: Store) -> dict[str, list[tuple[int, str, str]]]:
    """Everything that is said in the chats of the store."""
    return {
        chat.title: [(message.id, message.role, message.content) for message in store.tree(chat.id)]
        for chat in store.chats(100_000)
    }
