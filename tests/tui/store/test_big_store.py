"""The store of the benchmarks: that it is one, and that a store of its size is quick."""

import time
from contextlib import closing

import pytest

from benchmarks import big_store
from tui.store import Store
from tui.store.opening import connect


def seconds(work) -> float:
    """The least time of five."""

    def once() -> float:
        begun = time.perf_counter()
        work()
        return time.perf_counter() - begun

    return min(once() for _ in range(5))


def test_it_is_as_koala_tui_would_have_written_it(tmp_path):
    path = tmp_path / "chats.db"
    big_store.build(path, chats=40, messages=20)
    with closing(Store.open(path)) as store:
        assert store.notice is None
        assert [chat.messages for chat in store.chats()] == [20] * 40
        assert len(store.path(7)) == 20
        (hit,) = store.search(big_store.NEEDLE[:-3])
        assert big_store.NEEDLE in next(m.content for m in store.tree(hit.chat_id) if m.id == hit.message_id)
        store.add_message(7, store.path(7)[-1].id, "user", "goes on")
    with closing(connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        connection.execute("INSERT INTO search_index (search_index, rank) VALUES ('integrity-check', 1)")
    with pytest.raises(FileExistsError):
        big_store.build(path)


@pytest.mark.slow
def test_200_000_messages_are_no_weight(tmp_path):
    path = tmp_path / "chats.db"
    big_store.build(path)
    assert seconds(lambda: Store.open(path).close()) < 0.05
    with closing(Store.open(path)) as store:
        assert seconds(lambda: store.chats(200)) < 0.02
        for typed in ("k", "ka", "kal", "z", "la mi", "ka la m", big_store.NEEDLE[:4], "nothing at all", "->"):
            assert seconds(lambda typed=typed: store.search(typed)) < 0.1, typed
        chat, parent = store.create_chat(), None
        for number in range(1_000):
            parent = store.add_message(chat, parent, ("user", "assistant")[number % 2], "some words " * 20)
        assert seconds(lambda: store.path(chat)) < 0.03
