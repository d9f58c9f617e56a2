import pytest

from tui.store import Chat, Store, StoreError

from .conftest import talk


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """A clock that goes on by a second whenever it is read, so that orders are certain."""
    now = iter(range(1_000, 1_000_000))
    monkeypatch.setattr("time.time", lambda: float(next(now)))


def titles(store: Store) -> list[str]:
    return [chat.title for chat in store.chats()]


def test_a_new_chat_is_empty_and_has_what_it_was_given(store):
    chat = store.create_chat("Tea", {"temperature": 0.5})
    assert store.chat(chat) == Chat(chat, "Tea", 1000.0, 1000.0, False, {"temperature": 0.5}, "", 0)
    assert store.path(chat) == store.tree(chat) == []


def test_the_pinned_come_first_then_the_last_changed(store):
    first, second, third = (store.create_chat(title) for title in ("first", "second", "third"))
    assert titles(store) == ["third", "second", "first"]
    store.add_message(first, None, "user", "hello")
    assert titles(store) == ["first", "third", "second"]
    store.pin(second, True)
    assert titles(store) == ["second", "first", "third"]
    assert store.chat(second).pinned
    store.pin(second, False)
    assert titles(store) == ["first", "third", "second"]
    reply = store.add_message(third, None, "assistant", "", state="streaming")
    store.add_message(first, None, "user", "again")
    store.update_message(reply, content="so far", state="streaming")
    assert titles(store) == ["first", "third", "second"]
    store.update_message(reply, content="done", state="complete")
    assert titles(store) == ["third", "first", "second"]


def test_pages_of_the_list(store):
    for number in range(7):
        store.create_chat(str(number))
    assert [chat.title for chat in store.chats(3)] == ["6", "5", "4"]
    assert [chat.title for chat in store.chats(3, 6)] == ["0"]


def test_settings_drafts_and_titles_do_not_move_a_chat(store):
    first, _ = talk(store, "hello")
    store.create_chat("other")
    store.set_settings(first, {"system": "Be brief.", "n": [1, 2]})
    store.set_draft(first, "half a tho")
    store.rename(first, "Renamed")
    chat = store.chat(first)
    assert (chat.settings, chat.draft, chat.title) == ({"system": "Be brief.", "n": [1, 2]}, "half a tho", "Renamed")
    assert titles(store) == ["other", "Renamed"]


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("How are you?", "How are you?"),
        ("\n\n   \n  What  is\ta koala?\nTell me.", "What is a koala?"),
        (
            "Please explain to me in simple words how a transformer works",
            "Please explain to me in simple words how a transformer works",
        ),
        (
            "Please explain to me in very simple words how a transformer works",
            "Please explain to me in very simple words how a transformer…",
        ),
        ("x" * 100, "x" * 59 + "…"),
        ("   \n ", ""),
    ],
)
def test_the_first_question_is_the_title(store, text, title):
    chat, _ = talk(store, text, "An answer.", "Another question")
    assert store.chat(chat).title == (title or "Another question")


def test_a_given_title_stays(store):
    chat, _ = talk(store, "How are you?", title="Mine")
    assert store.chat(chat).title == "Mine"


def test_delete_and_undo(store):
    chat, messages = talk(store, "a secret", "an answer")
    store.delete(chat)
    assert store.chats() == []
    assert store.search("secret") == []
    assert store.history() == []
    assert store.chat(chat).messages == 2
    store.undelete(chat)
    assert [each.id for each in store.chats()] == [chat]
    assert [hit.message_id for hit in store.search("secret")] == [None, messages[0]]
    assert len(store.path(chat)) == 2


def test_what_is_purged_is_gone(store, path):
    kept, _ = talk(store, "kept")
    gone, messages = talk(store, "my Verysecretword: 1234", "an answer")
    store.delete(gone)
    assert store.purge_deleted(store.chat(gone).created) == 0
    assert store.purge_deleted(1e9) == 1
    with pytest.raises(StoreError, match=f"no chat {gone} any more"):
        store.chat(gone)
    with pytest.raises(StoreError, match=f"no message {messages[1]} any more"):
        store.update_message(messages[1], content="late")
    assert store.search("verysecretword") == []
    assert len(store.tree(kept)) == 1
    assert store.create_chat() > gone
    store.close()
    assert b"Verysecretword: 1234" not in path.read_bytes()


@pytest.mark.parametrize(
    "call",
    [
        lambda store: store.chat(99),
        lambda store: store.path(99),
        lambda store: store.tree(99),
        lambda store: store.rename(99, "x"),
        lambda store: store.pin(99, True),
        lambda store: store.delete(99),
        lambda store: store.undelete(99),
        lambda store: store.set_settings(99, {}),
        lambda store: store.set_draft(99, "x"),
        lambda store: store.set_head(99, None),
        lambda store: store.add_message(99, None, "user", "x"),
    ],
)
def test_a_chat_that_is_not_there_is_a_sentence(store, call):
    with pytest.raises(StoreError, match="no chat 99 any more"):
        call(store)


def test_settings_that_json_does_not_know_become_text(store, tmp_path):
    chat = store.create_chat(settings={"model": tmp_path, "none": None})
    assert store.chat(chat).settings == {"model": str(tmp_path), "none": None}


def test_in_memory():
    store = Store.open(None)
    chat, _ = talk(store, "hello")
    assert store.chat(chat).messages == 1
    assert not store.read_only
    assert store.notice is None
    assert not store.changed()
    store.close()
    store.close()
