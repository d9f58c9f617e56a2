"""Damaged stores: set aside, never deleted, and everything readable saved."""

import random
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tui.store import Store, StoreError, pages, repair
from tui.store.opening import connect
from tui.store.salvage import CHAT, MESSAGE

from .conftest import said, talk

PAGE = 4096


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    """A folder with `clean/chats.db`, and with `killed/chats.db` whose newest part is only in its log."""
    folder = tmp_path_factory.mktemp("original")
    path = folder / "open" / "chats.db"
    store = Store.open(path)
    for number in range(30):
        _, messages = talk(
            store, *(f"chat {number} message {n} " + "wörds " * 40 for n in range(12)), title=f"Chat {number}"
        )
        store.update_message(messages[3], details={"seed": number})
    chat, messages = talk(store, "long", "a long answer of some pages, " * 2_000, title="Long")
    store.add_message(chat, messages[0], "assistant", "another answer \ud800", state="partial")
    store.set_settings(chat, {"temperature": 0.5})
    store.set_draft(chat, "half a tho")
    (folder / "killed").mkdir()
    for ending in ("", "-wal"):
        shutil.copyfile(f"{path}{ending}", folder / "killed" / f"chats.db{ending}")
    store.close()
    (folder / "clean").mkdir()
    shutil.copyfile(path, folder / "clean" / "chats.db")
    return folder


@pytest.fixture(scope="module")
def everything(original) -> dict:
    shutil.copytree(original / "clean", original / "read")
    with closing(Store.open(original / "read" / "chats.db")) as store:
        return said(store)


def damaged(original: Path, kind: str, path: Path, change) -> None:
    """Put a copy of the original at `path`, with its content changed."""
    shutil.copytree(original / kind, path.parent)
    content = bytearray(path.read_bytes())
    change(content)
    path.write_bytes(content)


def messages_of(everything: dict) -> set:
    return {message for messages in everything.values() for message in messages}


def check(path: Path) -> None:
    with closing(connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        connection.execute("INSERT INTO search_index (search_index, rank) VALUES ('integrity-check', 1)")


def no_header(content: bytearray) -> None:
    content[:16] = b"not a database!!"


def no_first_page(content: bytearray) -> None:
    content[:PAGE] = random.Random(0).randbytes(PAGE)


@pytest.mark.parametrize("change", [no_header, no_first_page])
def test_without_its_beginning_everything_is_saved(original, everything, path, change):
    damaged(original, "clean", path, change)
    before = path.read_bytes()
    with closing(Store.open(path)) as store:
        assert said(store) == everything
        (chat,) = [chat for chat in store.chats(100) if chat.title == "Long"]
        assert (chat.settings, chat.draft, chat.messages) == ({"temperature": 0.5}, "half a tho", 3)
        assert [m.state for m in store.path(chat.id)] == ["complete", "partial"]
        assert len(store.search("message 7")) == 41
        (aside,) = path.parent.glob("chats.corrupt-*.db")
        assert store.notice == (
            "chats.db was damaged: 31 chats with 363 messages were saved from it, "
            f"and the damaged file is kept as {aside}"
        )
        talk(store, "goes on")
    assert aside.read_bytes() == before
    check(path)
    with closing(Store.open(path)) as store:
        assert store.notice is None


def test_the_log_is_set_aside_and_read_too(original, everything, path):
    damaged(original, "killed", path, lambda content: content.__setitem__(slice(0, PAGE), b"x" * PAGE))
    log = path.with_name("chats.db-wal")
    changed = bytearray(log.read_bytes())
    changed[24] ^= 0xFF  # the checksum of its header: SQLite takes none of it
    log.write_bytes(changed)
    with closing(Store.open(path)) as store:
        assert said(store) == everything
    (aside,) = path.parent.glob("chats.corrupt-*.db")
    assert aside.with_name(aside.name + "-wal").read_bytes() == changed
    check(path)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("kind", ["clean", "killed"])
def test_with_holes_all_but_the_holes_is_saved(original, everything, path, kind, seed):
    chance = random.Random(seed)

    def holes(content: bytearray) -> None:
        for _ in range(5):
            at = chance.randrange(1, len(content) // PAGE) * PAGE
            content[at : at + PAGE] = chance.randbytes(PAGE) if chance.random() < 0.7 else bytes(PAGE)

    damaged(original, kind, path, holes)
    with closing(Store.open(path)) as store:
        store.search("message")
        store.search("m")
        found = messages_of(said(store))
        chats = store.chats(100)
        assert len(found & messages_of(everything)) >= 363 - 5 * 20
        for chat in chats:
            path_of_chat = store.path(chat.id)
            assert bool(path_of_chat) == bool(chat.messages)
        talk(store, "goes on")
        assert len(store.search("goes on")) == 2
    if list(path.parent.glob("chats.corrupt-*.db")):
        check(path)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_the_beginning_of_a_cut_file_is_saved(original, everything, path, share):
    damaged(original, "clean", path, lambda content: content.__delitem__(slice(int(share * len(content)), None)))
    with closing(Store.open(path)) as store:
        assert "was damaged" in store.notice
        found = messages_of(said(store))
        assert found & messages_of(everything)
        assert len({number for number, *_ in found}) == len(found)
    check(path)


def test_nothing_at_all_is_set_aside_too(path):
    path.parent.mkdir()
    path.write_text("Dear diary, " * 1_000)
    with closing(Store.open(path)) as store:
        assert "0 chats with 0 messages were saved" in store.notice
        talk(store, "hello")
    (aside,) = path.parent.glob("chats.corrupt-*.db")
    assert aside.read_text() == "Dear diary, " * 1_000


def test_a_second_damage_on_one_day_has_its_own_name(path):
    path.parent.mkdir()
    for text in ("first", "second"):
        path.write_text(text * 100)
        Store.open(path).close()
    assert sorted(p.read_text()[:5] for p in path.parent.glob("chats.corrupt-*.db")) == ["first", "secon"]


def test_damage_that_is_met_later_is_mended_then(original, everything, path):
    shutil.copytree(original / "clean", path.parent)
    store = Store.open(path)
    assert store.notice is None
    with closing(sqlite3.connect(path)) as connection:
        root = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'messages_children'").fetchone()[0]
    content = bytearray(path.read_bytes())
    content[(root - 1) * PAGE : root * PAGE] = b"\xff" * PAGE
    path.write_bytes(content)
    with closing(store):
        assert [m.content for m in store.path(1)] == [text for _, _, text in everything["Chat 0"]]
        assert said(store) == everything
        assert "was damaged" in store.notice
        talk(store, "goes on")
    check(path)


def test_another_app_goes_on_with_the_mended_store(original, everything, path):
    shutil.copytree(original / "clean", path.parent)
    here, there = Store.open(path), Store.open(path)
    with closing(sqlite3.connect(path)) as connection:
        root = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'messages_children'").fetchone()[0]
    content = bytearray(path.read_bytes())
    content[(root - 1) * PAGE : root * PAGE] = b"\xff" * PAGE
    path.write_bytes(content)
    with closing(here), closing(there):
        assert said(here) == everything
        talk(here, "said here")
        talk(there, "said there")
        assert said(there).keys() == said(here).keys() == everything.keys() | {"said here", "said there"}
        assert not there.changed()
        talk(here, "more")
        assert there.changed()
    check(path)


def test_changed_sees_that_the_store_was_mended(original, path):
    shutil.copytree(original / "clean", path.parent)
    here, there = Store.open(path), Store.open(path)
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)
    with closing(here), closing(there):
        assert there.changed()
        assert not there.changed()
        talk(here, "said here")
        assert "said here" in said(there)


def test_a_store_that_was_removed_under_the_app_is_put_back(original, everything, path):
    shutil.copytree(original / "clean", path.parent)
    with closing(Store.open(path)) as store:
        talk(store, "before")
        shutil.rmtree(path.parent)
        path.parent.mkdir()
        talk(store, "after")
    with closing(Store.open(path)) as store:
        assert said(store).keys() == everything.keys() | {"before", "after"}
    check(path)


def test_a_broken_search_index_is_made_anew(original, everything, path):
    shutil.copytree(original / "clean", path.parent)
    with closing(connect(path)) as connection:
        connection.execute("DELETE FROM search_index_data WHERE id > 1000")
    with closing(Store.open(path)) as store:
        assert len(store.search("message 7")) == 41
        assert store.notice is None
        assert said(store) == everything
    assert not list(path.parent.glob("chats.corrupt-*"))
    check(path)


@pytest.mark.parametrize("cut", ["before", "half", "after"])
def test_a_repair_that_is_cut_short_is_ended(original, everything, path, monkeypatch, cut):
    damaged(original, "clean", path, no_header)

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        if cut == "before":
            patched.setattr(repair, "_write", stop)
        elif cut == "half":
            patched.setattr(repair, "unused", stop)
        else:
            calls = []
            finish = repair.finish
            patched.setattr(repair, "finish", lambda p: stop() if calls else (calls.append(p), finish(p)))
        with pytest.raises(KeyboardInterrupt):
            Store.open(path)
    assert path.exists() == (cut != "after")
    with closing(Store.open(path)) as store:
        assert said(store) == everything
    assert list(path.parent.glob("chats.corrupt-*.db"))
    assert not list(path.parent.glob("*.mended*"))
    check(path)


def test_a_repair_without_room_leaves_the_damaged_store(original, path, monkeypatch):
    damaged(original, "clean", path, no_header)
    before = path.read_bytes()

    def full(*_):
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(repair, "_write", full)
    with pytest.raises(StoreError, match="the disk is full"):
        Store.open(path)
    assert path.read_bytes() == before


def test_where_files_cannot_have_two_names_they_are_copied(original, everything, path, monkeypatch):
    damaged(original, "killed", path, no_first_page)
    path.with_name("chats.db-wal").write_bytes(b"no log")
    before = path.read_bytes()

    def refuse(*_):
        raise OSError("not supported")

    monkeypatch.setattr("os.link", refuse)
    Store.open(path).close()
    (aside,) = path.parent.glob("chats.corrupt-*.db")
    assert aside.read_bytes() == before
    assert aside.with_name(aside.name + "-wal").read_bytes() == b"no log"


@pytest.mark.parametrize("page_size", [512, 1024, 4096, 65536])
def test_pages_are_read_as_sqlite_reads_them(tmp_path, page_size):
    path = tmp_path / "some.db"
    chance = random.Random(page_size)
    rows = [
        (
            number * chance.choice([1, 1_000, -1, 10**15]),
            chance.choice([None, 0, 1, -1, 200, -30_000, 2**23, -(2**40), 2**62, 1.5, -0.0]),
            "ü" * chance.choice([0, 1, 5, 300, 700, 5_000, 70_000]),
            chance.randbytes(chance.choice([0, 3, 200])),
        )
        for number in range(1, 200)
    ]
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA page_size = {page_size}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, a, b, c)")
        connection.executemany("INSERT OR IGNORE INTO t VALUES (?, ?, ?, ?)", rows[:150])
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.executemany("INSERT OR IGNORE INTO t VALUES (?, ?, ?, ?)", rows[150:])
        connection.execute("DELETE FROM t WHERE id % 7 = 0")
        expected = sorted(connection.execute("SELECT id, NULL, a, b, c FROM t"))
        assert sorted(row for row in pages.rows(path) if len(row) == 5) == expected


def test_pages_of_rubbish_end(tmp_path):
    path = tmp_path / "rubbish"
    for seed in range(30):
        chance = random.Random(seed)
        content = bytearray(chance.randbytes(PAGE * 4))
        for page in range(4):
            content[page * PAGE] = 0x0D
        path.write_bytes(pages.MAGIC + content[16:] if seed % 2 else content)
        (tmp_path / "rubbish-wal").write_bytes(chance.randbytes(chance.randrange(10_000)))
        for row in pages.rows(path):
            assert len(row) <= pages.MAX_COLUMNS + 2


def test_the_columns_that_are_saved_are_those_of_the_store(path):
    with closing(Store.open(path)):
        pass
    with closing(sqlite3.connect(path)) as connection:
        for table, names in (("chats", CHAT), ("messages", MESSAGE)):
            assert tuple(row[1] for row in connection.execute(f"PRAGMA table_info ({table})")) == names
