"""Stores that are new, old, newer, somebody else's, or not to be written."""

import os
import shutil
import sqlite3
import tempfile
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tui.store import Store, StoreError, migrations
from tui.store.opening import connect

from .conftest import said, talk

NOBODY = 65534


def tables(connection: sqlite3.Connection) -> set[str]:
    return {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')")}


def store_of_format(path: Path, number: int) -> None:
    """Make a store as the koala-tui of that format did, with a chat of two messages in it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        for step in migrations.MIGRATIONS[:number]:
            step(connection)
        connection.execute(f"PRAGMA user_version = {number}")
        connection.execute("BEGIN")
        connection.execute("INSERT INTO chats (id, uid, title, created, updated, head) VALUES (1, 'u', 'Old', 1, 2, 2)")
        connection.execute(
            "INSERT INTO messages VALUES (1, 1, NULL, 'user', 'an old question', 'complete', 1, 1, '{}')"
        )
        connection.execute(
            "INSERT INTO messages VALUES (2, 1, 1, 'assistant', 'an old answer', 'complete', 2, 2, '{}')"
        )
        connection.execute("COMMIT")


@contextmanager
def folder_of_somebody_else():
    """A folder outside of pytest's own, which may be closed to a user without rights; then act as that user."""
    folder = Path(tempfile.mkdtemp(prefix="koala-test-"))
    rights = os.geteuid() == 0
    try:
        yield folder, (lambda: os.seteuid(NOBODY)) if rights else (lambda: None)
    finally:
        if rights:
            os.seteuid(0)
        folder.chmod(0o755)
        shutil.rmtree(folder)


def test_a_new_store_is_made_with_its_folder(path):
    with closing(Store.open(path)) as store:
        assert store.notice is None
        assert store.chats() == []
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA application_id").fetchone() == (migrations.APPLICATION,)
        assert migrations.version(connection) == migrations.LATEST
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert {"chats", "messages", "search_index"} <= tables(connection)


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX's")
def test_a_new_store_is_for_its_owner_alone(path):
    with closing(Store.open(path)) as store:
        talk(store, "secret")
        for file in path.parent.glob("chats.db*"):
            if file.suffix != ".lock":
                assert file.stat().st_mode & 0o777 == 0o600, file


def test_an_empty_file_becomes_a_store(path):
    path.parent.mkdir()
    path.touch()
    with closing(Store.open(path)) as store:
        talk(store, "hello")
        assert store.notice is None


def test_what_was_said_is_there_again(path):
    with closing(Store.open(path)) as store:
        talk(store, "hello", "hi")
        before = said(store)
    with closing(Store.open(path)) as store:
        assert said(store) == before
        assert store.notice is None


@pytest.mark.parametrize("number", range(1, migrations.LATEST))
def test_an_old_store_is_migrated_and_kept(path, number):
    store_of_format(path, number)
    with closing(Store.open(path)) as store:
        assert [m.content for m in store.path(1)] == ["an old question", "an old answer"]
        assert [hit.message_id for hit in store.search("answer")] == [2]
        assert len(store.search("old")) == 3
        assert store.chat(1).messages == 2
        talk(store, "new")
        copy = path.with_name(f"chats.format-{number}.db")
        assert store.notice == (
            f"the store was brought to format {migrations.LATEST}; as it was before, it is kept as {copy}"
        )
    with closing(sqlite3.connect(copy)) as connection:
        assert migrations.version(connection) == number
        assert connection.execute("SELECT count(*) FROM messages").fetchone() == (2,)
    with closing(Store.open(path)) as store:
        assert store.notice is None


@pytest.mark.parametrize("number", range(1, migrations.LATEST + 1))
def test_a_migration_that_fails_changes_nothing(path, number, monkeypatch):
    original = migrations.MIGRATIONS

    def breaks(connection):
        original[number - 1](connection)
        raise sqlite3.OperationalError("database or disk is full")

    if number > 1:
        store_of_format(path, number - 1)
    with monkeypatch.context() as patched:
        patched.setattr(migrations, "MIGRATIONS", (*original[: number - 1], breaks))
        patched.setattr(migrations, "LATEST", number)
        with pytest.raises(StoreError, match="disk is full"):
            Store.open(path)
    with closing(sqlite3.connect(path)) as connection:
        assert migrations.version(connection) == number - 1
    with closing(Store.open(path)) as store:
        talk(store, "works again")


def test_a_newer_store_is_left_alone(path):
    Store.open(path).close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {migrations.LATEST + 5}")
    before = path.read_bytes()
    with pytest.raises(StoreError) as raised:
        Store.open(path)
    latest = migrations.LATEST
    assert str(raised.value) == (
        f"{path} was written by a newer koala-tui (format {latest + 5}, this one knows {latest}): "
        "update koala, or choose another place for the store"
    )
    assert path.read_bytes() == before


def test_a_database_of_another_program_is_left_alone(path):
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE theirs (x)")
        connection.commit()
    before = path.read_bytes()
    with pytest.raises(StoreError, match="is a database of another program"):
        Store.open(path)
    assert path.read_bytes() == before


def test_a_folder_is_no_store(path):
    path.mkdir(parents=True)
    with pytest.raises(StoreError, match="is a folder"):
        Store.open(path)


def test_a_parent_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="cannot be read or written"):
        Store.open(tmp_path / "file" / "chats.db")


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX's")
@pytest.mark.parametrize("which", ["file", "folder", "both"])
def test_what_may_not_be_written_is_read(which):
    with folder_of_somebody_else() as (folder, become_somebody_else):
        path = folder / "chats.db"
        with closing(Store.open(path)) as store:
            chat, _ = talk(store, "hello", "hi")
            before = said(store)
        path.chmod(0o444 if which != "folder" else 0o666)
        folder.chmod(0o555 if which != "file" else 0o777)
        become_somebody_else()
        with closing(Store.open(path)) as store:
            assert store.read_only
            assert store.notice == f"{path} may not be written: it can be read, but nothing new is kept"
            assert said(store) == before
            assert len(store.search("hello")) == 2
            assert store.interrupted() == []
            assert not store.changed()
            with pytest.raises(StoreError, match="read only"):
                store.add_message(chat, None, "user", "lost?")


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX's")
def test_what_was_not_yet_moved_from_the_log_is_read_too():
    with folder_of_somebody_else() as (folder, become_somebody_else):
        (folder / "source").mkdir()
        with closing(Store.open(folder / "source" / "chats.db")) as store:
            talk(store, "hello", "hi")
            before = said(store)
            for ending in ("", "-wal"):  # as a killed app leaves them, on a medium that was then made read-only
                shutil.copyfile(folder / "source" / f"chats.db{ending}", folder / f"chats.db{ending}")
        assert (folder / "chats.db-wal").stat().st_size
        folder.chmod(0o555)
        become_somebody_else()
        with closing(Store.open(folder / "chats.db")) as store:
            assert store.read_only
            assert said(store) == before
            assert len(store.search("hello")) == 2


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX's")
def test_an_old_store_that_may_not_be_written_is_read():
    with folder_of_somebody_else() as (folder, become_somebody_else):
        store_of_format(folder / "chats.db", 1)
        folder.chmod(0o555)
        become_somebody_else()
        with closing(Store.open(folder / "chats.db")) as store:
            assert store.read_only
            assert [hit.message_id for hit in store.search("answer")] == [2]
            with pytest.raises(StoreError, match="read only"):
                store.create_chat()


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX's")
def test_where_nothing_may_be_made(tmp_path):
    with folder_of_somebody_else() as (folder, become_somebody_else):
        folder.chmod(0o555)
        become_somebody_else()
        with pytest.raises(StoreError, match=f"no store can be made in {folder}"):
            Store.open(folder / "chats.db")
        with pytest.raises(StoreError, match="may not be written"):
            Store.open(folder / "deeper" / "chats.db")


def test_a_damaged_one_that_may_not_be_written_is_a_sentence():
    if os.name != "posix":
        pytest.skip("permissions are POSIX's")
    with folder_of_somebody_else() as (folder, become_somebody_else):
        path = folder / "chats.db"
        path.write_bytes(b"no database" * 1000)
        folder.chmod(0o555)
        become_somebody_else()
        with pytest.raises(StoreError, match="is damaged, and cannot be mended where nothing may be written"):
            Store.open(path)


def test_the_schema_itself_holds_a_tree_together(path):
    with closing(Store.open(path)) as store:
        talk(store, "here")
        talk(store, "there")
    with closing(connect(path)) as connection:
        for statement in (
            "UPDATE messages SET parent_id = 2 WHERE id = 1",
            "UPDATE chats SET head = 2 WHERE id = 1",
            "INSERT INTO messages VALUES (9, 99, NULL, 'user', 'x', 'complete', 1, 1, '{}')",
            "DELETE FROM messages WHERE id = 1",
        ):
            with pytest.raises(sqlite3.IntegrityError):
                connection.execute(statement)


def test_the_plans_of_the_queries_use_the_indexes(path):
    with closing(Store.open(path)) as store:
        talk(store, "x")
    with closing(connect(path)) as connection:
        for query in (
            "SELECT * FROM chats WHERE deleted IS NULL ORDER BY pinned DESC, updated DESC, id DESC LIMIT 200",
            "SELECT id FROM messages WHERE state = 'streaming' AND touched < 5",
            "SELECT content FROM messages JOIN chats ON chats.id = chat_id AND deleted IS NULL "
            "WHERE role = 'user' ORDER BY messages.created DESC LIMIT 9",
            "SELECT id, parent_id FROM messages WHERE chat_id = 1",
        ):
            plan = " ".join(row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {query}"))
            assert "INDEX" in plan and "TEMP B-TREE" not in plan, (query, plan)
