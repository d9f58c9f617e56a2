"""A disk without room: a sentence, nothing harmed, and all goes on when there is room again."""

import os
import subprocess
from contextlib import closing, suppress
from pathlib import Path

import pytest

from tui.store import Store, StoreError
from tui.store.opening import connect

from .conftest import said, talk


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 2 MiB; only root can make one."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = os.name == "posix" and os.geteuid() == 0 and _run("mount", "-t", "tmpfs", "-o", "size=2m", "none", folder)
    if not mounted:
        pytest.skip("a small file system can only be made by root")
    yield folder
    assert _run("umount", folder)


def _run(*command: object) -> bool:
    with suppress(OSError):
        return subprocess.run([str(part) for part in command], capture_output=True, check=False).returncode == 0
    return False


def write_until_full(store: Store) -> dict[int, str]:
    """Add chats and messages until one is refused; return the texts of those that were kept."""
    kept: dict[int, str] = {}
    with pytest.raises(StoreError, match=r"the disk is full, so this was not kept in .*: make room there"):
        for number in range(100_000):
            text = f"message {number} " + "with many words " * 50
            chat = store.create_chat(f"chat {number}")
            kept[store.add_message(chat, None, "user", text, durable=True)] = text
    return kept


def texts(store: Store) -> dict[int, str]:
    return {number: text for messages in said(store).values() for number, _, text in messages}


def check(path: Path) -> None:
    with closing(connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        connection.execute("INSERT INTO search_index (search_index, rank) VALUES ('integrity-check', 1)")


def test_a_store_that_may_not_grow(path):
    with closing(Store.open(path)) as store:
        connection = store._database._connection
        connection.execute("PRAGMA max_page_count = 200")
        kept = write_until_full(store)
        assert texts(store) == kept
        assert len(store.search("message")) > 10
        connection.execute("PRAGMA max_page_count = 4294967294")
        chat, _ = talk(store, "goes on")
        assert texts(store).keys() == kept.keys() | {m.id for m in store.path(chat)}
    check(path)


def test_a_full_disk(small_disk):
    path = small_disk / "chats.db"
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(2**20))
    with closing(Store.open(path)) as store:
        kept = write_until_full(store)
        last = max(kept)
        with pytest.raises(StoreError, match="the disk is full"):
            store.update_message(last, content="much more " * 100_000)
        assert texts(store) == kept
        ballast.unlink()
        store.update_message(last, content="much more")
        chat, _ = talk(store, "goes on")
        expected = kept | {last: "much more"} | {m.id: m.content for m in store.path(chat)}
        assert texts(store) == expected
    with closing(Store.open(path)) as store:
        assert texts(store) == expected
    check(path)


def test_opening_on_a_full_disk(small_disk):
    path = small_disk / "chats.db"
    with closing(Store.open(path)) as store:
        talk(store, "hello", "hi")
        before = said(store)
    ballast = small_disk / "ballast"
    with suppress(OSError), ballast.open("wb", buffering=0) as file:
        while file.write(bytes(2**12)):
            pass
    with closing(Store.open(path)) as store:
        assert said(store) == before
        if store.read_only:
            assert "the disk is full" in store.notice
        with pytest.raises(StoreError, match=r"the disk is full|read only"):
            for _ in range(10):
                talk(store, "no room " * 1_000)
    ballast.unlink()
    with closing(Store.open(path)) as store:
        assert not store.read_only
        assert said(store).items() >= before.items()
        talk(store, "goes on")
    check(path)
