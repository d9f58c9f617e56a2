import sqlite3

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tui.store import Store
from tui.store.opening import connect
from tui.store.search import query

from .conftest import talk

anything = st.text(st.characters(exclude_categories=()) | st.sampled_from("\x00\ud800\"'*():^-+{}\\ aAéß世"))


@pytest.fixture
def store():
    opened = Store.open(None)
    yield opened
    opened.close()


def found(store: Store, text: str) -> list[str]:
    return [hit.snippet for hit in store.search(text)]


def test_a_hit_leads_to_the_message(store):
    chat, (_, answer) = talk(store, "Where do koalas live?", "In the eucalyptus forests of Australia.", title="Animals")
    (hit,) = store.search("eucalyptus")
    assert (hit.chat_id, hit.message_id, hit.title, hit.role) == (chat, answer, "Animals", "assistant")
    assert hit.snippet == "In the \x02eucalyptus\x03 forests of Australia."
    assert hit.created == store.path(chat)[-1].created


def test_titles_are_found_too(store):
    chat, _ = talk(store, "x", title="A recipe for damper")
    (hit,) = store.search("damper")
    assert (hit.chat_id, hit.message_id, hit.role) == (chat, None, "")
    assert hit.snippet == "A recipe for \x02damper\x03"
    store.rename(chat, "Bread")
    assert store.search("damper") == []
    assert len(store.search("bread")) == 1


@pytest.mark.parametrize(
    ("typed", "snippet"),
    [
        ("e", "\x02Eucalyptus\x03 was \x02éaten\x03, naïve in Zürich"),
        ("euca", "\x02Eucalyptus\x03 was éaten, naïve in Zürich"),
        ("EUCALYPTUS", "\x02Eucalyptus\x03 was éaten, naïve in Zürich"),
        ("naive", "Eucalyptus was éaten, \x02naïve\x03 in Zürich"),
        ("zurich nai", "Eucalyptus was éaten, \x02naïve\x03 in \x02Zürich\x03"),
        ("zürich", "Eucalyptus was éaten, naïve in \x02Zürich\x03"),
        ("eucalyptus ", "\x02Eucalyptus\x03 was éaten, naïve in Zürich"),
    ],
)
def test_as_one_types(store, typed, snippet):
    talk(store, "Eucalyptus was éaten, naïve in Zürich", title="t")
    assert found(store, typed) == [snippet]


@pytest.mark.parametrize("typed", ["eucal ", "lyptus", "euca nothing", "", "   ", '"'])
def test_what_is_not_there(store, typed):
    talk(store, "The Eucalyptus was eaten", title="t")
    assert store.search(typed) == []


@pytest.mark.parametrize(
    ("typed", "snippet"),
    [
        ("don't", "I \x02don't\x03 know os.path.join or x_y"),
        ("os.pa", "I don't know \x02os.path\x03.join or x_y"),
        ("x_y", "I don't know os.path.join or \x02x_y\x03"),
        ("path-join", "I don't know os.\x02path.join\x03 or x_y"),
    ],
)
def test_words_in_a_row(store, typed, snippet):
    talk(store, "I don't know os.path.join or x_y", title="t")
    talk(store, "join the path; dont; y x", title="t")
    assert found(store, typed) == [snippet]


@pytest.mark.parametrize(
    ("typed", "snippet"),
    [
        ("地図", "これは世界\x02地図\x03です"),
        ("界地", "これは世\x02界地\x03図です"),
        ("世", "これは\x02世\x03界地図です"),
        ("これ です", "\x02これ\x03は世界地図\x02です\x03"),
    ],
)
def test_scripts_without_spaces(store, typed, snippet):
    talk(store, "これは世界地図です", title="t")
    assert found(store, typed) == [snippet]
    assert store.search("図地") == []


def test_other_scripts(store):
    talk(store, "สวัสดีชาวโลก Привет, мир! नमस्ते दुनिया 안녕하세요 세계 שלום", title="t")
    for typed in ("ชาวโลก", "привет", "नमस्ते", "दुनि", "안녕", "שלום"):
        assert len(store.search(typed)) == 1, typed


def test_what_is_no_word_is_found_as_it_is(store):
    talk(store, "a -> b 🐨", "no arrow", title="t")
    assert found(store, "->") == ["a \x02->\x03 b 🐨"]
    assert found(store, "🐨") == ["a -> b \x02🐨\x03"]
    assert found(store, "<-") == []


def test_the_better_and_newer_come_first(store, monkeypatch):
    now = 1e9
    monkeypatch.setattr("time.time", lambda: now)
    talk(store, *["filler " * 20] * 20, title="f")
    _, (old,) = talk(store, "wombat again", title="t")
    now += 400 * 86_400
    _, (new,) = talk(store, "wombat again", title="t")
    _, (passing,) = talk(store, "wombat " + "and quite other things " * 30, title="t")
    assert [hit.message_id for hit in store.search("wombat")] == [new, old, passing]


def test_the_snippet_is_where_most_is(store):
    talk(store, "koala " + "filler " * 100 + "a koala eats leaves " + "filler " * 100, title="t")
    (snippet,) = found(store, "koala leaves")
    assert "\x02koala\x03 eats \x02leaves\x03" in snippet
    assert snippet.startswith("…filler") and snippet.endswith("…")
    assert len(snippet) < 200
    assert "\n" not in snippet


def test_the_index_follows_every_change(store):
    chat, (question,) = talk(store, "alpha", title="t")
    reply = store.add_message(chat, question, "assistant", "bravo", state="streaming")
    assert store.search("bravo") == []  # not before it is done
    store.update_message(reply, content="bravo charlie", state="streaming")
    store.update_message(reply, content="bravo charlie delta", state="partial")
    assert len(store.search("charlie delta")) == 1
    store.update_message(reply, content="echo", state="streaming")
    assert store.search("charlie") == store.search("echo") == []
    store.update_message(reply, state="complete")
    assert len(store.search("echo")) == 1
    store.update_message(reply, content="foxtrot")
    assert store.search("echo") == []
    store.take_back(reply)
    assert store.search("foxtrot") == []
    assert len(store.search("alpha")) == 1


def test_the_limit(store):
    talk(store, *["again and again"] * 30, title="t")
    assert len(store.search("again", limit=7)) == 7


@given(anything, st.lists(anything, max_size=4))
@settings(deadline=None)
@example('"', ['"'])
@example("NEAR(", ["near"])
@example("text:a OR b*", ["a"])
@example("İ", ["İstanbul"])
def test_no_text_is_a_syntax_error_and_snippets_are_the_text(typed, texts):
    store = Store.open(None)
    chat, _ = talk(store, *texts, title="t")
    by_id = {message.id: message.content for message in store.tree(chat)}
    for hit in store.search(typed):
        assert hit.snippet.count("\x02") == hit.snippet.count("\x03")
        if hit.message_id is None:
            continue
        import unicodedata

        plain = "".join(unicodedata.normalize("NFC", by_id[hit.message_id]).translate({2: " ", 3: " "}).split())
        assert "".join(hit.snippet.translate({2: None, 3: None}).split()).strip("…") in plain.strip("…") or "…" in plain
    store.close()


@given(st.text(st.sampled_from("abcdefgh éßö-'._"), min_size=1, max_size=30).filter(str.strip), st.data())
@settings(deadline=None)
def test_what_was_said_is_found_by_what_it_begins_with(text, data):
    store = Store.open(None)
    _, (message,) = talk(store, text, title="t")
    word = data.draw(st.sampled_from(text.split()))
    typed = word[: data.draw(st.integers(1, len(word)))]
    if query(typed):
        assert message in [hit.message_id for hit in store.search(typed)]
    store.close()


def test_the_index_can_check_and_rebuild_itself(tmp_path):
    path = tmp_path / "chats.db"
    store = Store.open(path)
    chat, messages = talk(store, "naïve 世界 \ud800 \x00 end", "hello", "more")
    store.add_message(chat, messages[-1], "assistant", "not yet", state="streaming")
    store.update_message(messages[1], content="changed")
    store.take_back(store.add_message(chat, messages[-1], "assistant", "gone"))
    store.close()
    connection = connect(path)
    for command in ("integrity-check", "rebuild", "integrity-check"):
        connection.execute("INSERT INTO search_index (search_index, rank) VALUES (?, 1)", (command,))
    connection.execute("UPDATE search_index_docsize SET id = 12345 WHERE id = 1")
    with pytest.raises(sqlite3.DatabaseError):
        connection.execute("INSERT INTO search_index (search_index, rank) VALUES ('integrity-check', 1)")
    connection.close()
