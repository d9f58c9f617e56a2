import json
from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.errors import InputError
from tui.exchange import ImportResult, export_chats, import_file
from tui.store import Store, WholeMessage

from .conftest import chats


@given(st.lists(chats(), min_size=1, max_size=4, unique_by=lambda chat: chat.uid))
@settings(deadline=None, max_examples=40)
def test_random_trees_come_back_as_they_were(tmp_path_factory, random_chats):
    path = tmp_path_factory.mktemp("export") / "chats.jsonl"
    with closing(Store.open(None)) as here, closing(Store.open(None)) as there:
        ids = [here.put(chat).chat_id for chat in random_chats]
        assert [here.take(chat_id) for chat_id in ids] == random_chats
        assert export_chats(here, ids, "jsonl", path) == len(ids)
        content = path.read_bytes()
        messages = sum(len(chat.messages) for chat in random_chats)
        assert import_file(there, path) == ImportResult(len(ids), messages, [])
        by_uid = {there.take(chat.id).uid: there.take(chat.id) for chat in there.chats()}
        assert by_uid == {chat.uid: chat for chat in random_chats}
        # again: nothing is doubled
        assert import_file(there, path) == ImportResult(0, 0, [], known=len(ids))
        assert import_file(here, path) == ImportResult(0, 0, [], known=len(ids))
        assert [here.take(chat_id) for chat_id in ids] == random_chats
        export_chats(here, ids, "jsonl", path)
        assert path.read_bytes() == content


def test_the_shown_branch_and_the_search_work_after_an_import(store, example, tmp_path):
    with closing(Store.open(None)) as source:
        export_chats(source, [source.put(example).chat_id], "jsonl", tmp_path / "x.jsonl")
    import_file(store, tmp_path / "x.jsonl")
    (chat,) = store.chats()
    assert [m.content for m in store.path(chat.id)] == [
        "What is a tree in computing?",
        "A connected graph without cycles.",
    ]
    assert (chat.title, chat.messages, chat.updated, chat.draft) == ("Trees *and* such", 5, 1_700_000_005.0, "and then")
    assert store.search("plant")[0].chat_id == chat.id


def test_what_was_said_since_is_added_to_a_known_chat(store, example, tmp_path):
    path = tmp_path / "x.jsonl"
    chat_id = store.put(example).chat_id
    with closing(Store.open(None)) as elsewhere:
        other = elsewhere.put(example).chat_id
        head = elsewhere.path(other)[-1].id
        elsewhere.add_message(other, elsewhere.add_message(other, head, "user", "More?"), "assistant", "More.")
        export_chats(elsewhere, None, "jsonl", path)
    store.add_message(chat_id, None, "user", "said here")
    assert import_file(store, path) == ImportResult(1, 2, [])
    assert [m.content for m in store.path(chat_id)] == ["said here"]
    assert {m.content for m in store.tree(chat_id)} >= {"said here", "More?", "More."}
    assert store.chat(chat_id).messages == 8
    assert import_file(store, path) == ImportResult(0, 0, [], known=1)


def test_a_deleted_chat_comes_back(store, example, tmp_path):
    chat_id = store.put(example).chat_id
    export_chats(store, None, "jsonl", tmp_path / "x.jsonl")
    store.delete(chat_id)
    import_file(store, tmp_path / "x.jsonl")
    assert [chat.id for chat in store.chats()] == [chat_id]


def test_identical_siblings_with_different_followers(store, example, tmp_path):
    from dataclasses import replace

    twin = WholeMessage(None, "user", "twin", created=1.0)
    chat = replace(
        example,
        messages=[twin, twin, WholeMessage(1, "assistant", "of the second", created=2.0)],
        head=2,
    )
    chat_id = store.put(chat).chat_id
    export_chats(store, None, "jsonl", tmp_path / "x.jsonl")
    assert import_file(store, tmp_path / "x.jsonl").messages == 0
    assert store.take(chat_id) == chat


def test_a_reply_in_the_making_is_exported_as_partial(store, tmp_path):
    chat = store.create_chat("t")
    store.add_message(chat, None, "assistant", "so far", state="streaming")
    assert store.take(chat).messages[0].state == "partial"


def test_the_bad_lines_are_named_and_the_good_ones_imported(store, example, tmp_path):
    path = tmp_path / "x.jsonl"
    export_chats(store, [store.put(example).chat_id], "jsonl", path)
    good = path.read_text()

    def changed(**values) -> str:
        return json.dumps(json.loads(good) | {"id": str(values)} | values) + "\n"

    message = json.loads(good)["messages"][0]
    path.write_text(
        good
        + "{broken\n"
        + "\n"
        + "[1, 2]\n"
        + changed(koala_chat=2)
        + changed(messages="none")
        + changed(messages=[message | {"parent": 0}])
        + changed(messages=[message | {"parent": True}])
        + changed(messages=[{"parent": None, "role": "user"}])
        + changed(head=17)
        + changed(settings=[])
        + '{"other": 1, "fields": 2}\n'
        + changed(title="the last one", created=1e300, head=None)
    )
    with closing(Store.open(None)) as fresh:
        result = import_file(fresh, path)
        assert (result.chats, result.messages) == (2, 10)
        assert result.skipped == [
            "line 2: it is no valid JSON (Expecting property name enclosed in double quotes at character 1)",
            "line 4: it is no object",
            "line 5: it is of format 2, and this koala-tui knows 1: update koala",
            "line 6: 'messages' must be a list of objects",
            "line 7: 'parent' is 0, which is the place of no message before",
            "line 8: 'parent' is True, which is the place of no message before",
            "line 9: it has no 'content'",
            "line 10: 'head' is 17, which is the place of no message before",
            "line 11: 'settings' must be an object",
            "line 12: it is no chat of a known form; it has 'other', 'fields'",
        ]
        assert "the last one" in [chat.title for chat in fresh.chats()]


def test_an_export_takes_the_place_of_a_file_or_leaves_it(store, example, tmp_path):
    path = tmp_path / "new" / "x.jsonl"
    chat_id = store.put(example).chat_id
    export_chats(store, [chat_id], "jsonl", path)
    before = path.read_bytes()
    with pytest.raises(Exception, match="no chat 99 any more"):
        export_chats(store, [chat_id, 99], "jsonl", path)
    assert path.read_bytes() == before
    export_chats(store, [], "jsonl", path)
    assert path.read_bytes() == b""
    assert [each.name for each in path.parent.iterdir()] == ["x.jsonl"]


def test_all_chats_are_exported(store, tmp_path):
    for number in range(1_203):
        store.create_chat(f"chat {number}")
    deleted = store.create_chat("deleted")
    store.delete(deleted)
    assert export_chats(store, None, "jsonl", tmp_path / "x.jsonl") == 1_203
    titles = {json.loads(line)["title"] for line in (tmp_path / "x.jsonl").open()}
    assert titles == {f"chat {number}" for number in range(1_203)}


def test_refusals(store, tmp_path):
    with pytest.raises(InputError, match="no form to export is called 'pdf': choose one of markdown, jsonl"):
        export_chats(store, [], "pdf", tmp_path / "x")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        export_chats(store, [], "jsonl", tmp_path / "file" / "x")
    with pytest.raises(InputError, match=r"nowhere\.jsonl cannot be read: No such file"):
        import_file(store, tmp_path / "nowhere.jsonl")
    with pytest.raises(InputError, match="cannot be read"):
        import_file(store, tmp_path)
    for content, problem in [
        (b"", "is empty"),
        (b" \n ", "is empty"),
        (b"Dear diary", "holds no JSON"),
        (b"\x00\x01\x02\x03", "holds no JSON"),
        (b"[]", "holds no chats: it is an empty list"),
        (b"{}", "holds no chats: line 1: it is no chat of a known form; it has no fields"),
        (b"[[]]", "holds no chats: record 1: it is no object"),
        (b"[1, 2", "holds no chats: record 1: it is no object"),
        (b"{" * 5, "holds no chats: line 1: it is no valid JSON"),
        (b"[" * 100_000, "holds no chats: record 1: it is no valid JSON"),
        (b"PK\x03\x04 no zip", "holds no JSON"),
    ]:
        (tmp_path / "bad").write_bytes(content)
        with pytest.raises(InputError, match=problem):
            import_file(store, tmp_path / "bad")


def test_progress_is_told(store, example, tmp_path):
    store.put(example)
    export_chats(store, None, "jsonl", tmp_path / "x.jsonl")
    told = []
    import_file(store, tmp_path / "x.jsonl", told.append)
    assert told == [1]
