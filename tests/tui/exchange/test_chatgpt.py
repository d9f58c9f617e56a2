"""Imports of what ChatGPT exports; the records here are made up in the shape of real ones."""

import json
import zipfile
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.errors import InputError
from tui.exchange import ImportResult, import_file
from tui.exchange.chatgpt import from_record
from tui.exchange.record import Unusable


def node(
    name: str, parent: str | None, role: str = "", content: Any = "", children: tuple[str, ...] = (), **message: Any
) -> dict[str, Any]:
    """A node of a conversation; without a role it has no message."""
    said = None
    if role:
        parts = {"content_type": "text", "parts": [content]} if isinstance(content, str) else content
        said = {
            "id": name,
            "author": {"role": role, "name": None, "metadata": {}},
            "create_time": 1_700_000_000.5,
            "update_time": None,
            "content": parts,
            "status": "finished_successfully",
            "end_turn": True,
            "weight": 1.0,
            "metadata": {},
            "recipient": "all",
            "channel": None,
        } | message
    return {"id": name, "message": said, "parent": parent, "children": list(children)}


def conversation(*nodes: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {
        "title": "A title",
        "create_time": 1_700_000_000.0,
        "update_time": 1_700_000_100.0,
        "mapping": {each["id"]: each for each in nodes},
        "moderation_results": [],
        "current_node": nodes[-1]["id"],
        "conversation_id": "c-1",
        "id": "c-1",
        "default_model_slug": "gpt-4o",
    } | fields


@pytest.fixture
def branched() -> dict[str, Any]:
    """A question edited once, and an answer given twice."""
    return conversation(
        node("root", None, children=("system",)),
        node("system", "root", "system", "", children=("q2", "q1"), weight=0.0),
        node("q1", "system", "user", "First", children=("a1",)),
        node("a1", "q1", "assistant", "Answer", metadata={"model_slug": "gpt-4"}),
        node("q2", "system", "user", "Edited", children=("a2", "a3")),
        node("a3", "q2", "assistant", "Second try"),
        node("a2", "q2", "assistant", "First try"),
        current_node="a1",
    )


def said(record: dict[str, Any]) -> list[tuple[int | None, str, str]]:
    return [(m.parent, m.role, m.content) for m in from_record(record).messages]


def test_a_tree(branched):
    chat = from_record(branched)
    assert said(branched) == [  # siblings in the order that their parent tells
        (None, "user", "Edited"),
        (0, "assistant", "First try"),
        (0, "assistant", "Second try"),
        (None, "user", "First"),
        (3, "assistant", "Answer"),
    ]
    assert (chat.uid, chat.title, chat.head) == ("chatgpt-c-1", "A title", 4)
    assert (chat.created, chat.updated) == (1_700_000_000.0, 1_700_000_100.0)
    assert chat.messages[0].created == 1_700_000_000.5
    assert [m.details for m in chat.messages] == [
        {},
        {"model": "gpt-4o"},
        {"model": "gpt-4o"},
        {},
        {"model": "gpt-4"},
    ]


def test_what_is_hidden_is_dropped_and_the_rest_joined():
    record = conversation(
        node("root", None),
        node("context", "root", "user", {"content_type": "user_editable_context", "user_profile": "me"}),
        node("note", "context", "system", "You are …", metadata={"is_visually_hidden_from_conversation": True}),
        node("q", "note", "user", "Question"),
        node("thoughts", "q", "assistant", {"content_type": "thoughts", "thoughts": [{"content": "hm"}]}),
        node("recap", "thoughts", "assistant", {"content_type": "reasoning_recap", "content": "Thought for 3 s"}),
        node("search", "recap", "tool", {"content_type": "tether_browsing_display", "result": "L1"}),
        node("page", "search", "tool", {"content_type": "tether_quote", "title": "t", "text": "a whole page"}),
        node("note2", "page", "tool", "for the model only"),
        node("empty", "note2", "assistant", ""),
        node("a", "empty", "assistant", "Answer"),
        node("hidden", "a", "user", "secret", metadata={"is_visually_hidden_from_conversation": True}),
    )
    assert said(record) == [(None, "user", "Question"), (0, "assistant", "Answer")]
    assert from_record(record).head == 1


def test_the_steps_of_an_answer_are_one_message():
    record = conversation(
        node("q", None, "user", "Compute."),
        node("say", "q", "assistant", "Let me see."),
        node(
            "run",
            "say",
            "assistant",
            {"content_type": "code", "language": "unknown", "text": "1 + 1"},
            recipient="python",
        ),
        node("out", "run", "tool", {"content_type": "execution_output", "text": "2"}),
        node("a", "out", "assistant", "It is 2."),
        node("next", "a", "user", "Thanks"),
    )
    assert said(record) == [
        (None, "user", "Compute."),
        (0, "assistant", "Let me see.\n\n```python\n1 + 1\n```\n\n```text\n2\n```\n\nIt is 2."),
        (1, "user", "Thanks"),
    ]


def test_steps_are_not_joined_across_branches():
    record = conversation(
        node("q", None, "user", "Compute."),
        node("say", "q", "assistant", "Let me see.", children=("a", "b")),
        node("a", "say", "assistant", "It is 2."),
        node("b", "say", "assistant", "It is two."),
        current_node="a",
    )
    assert said(record) == [
        (None, "user", "Compute."),
        (0, "assistant", "Let me see."),
        (1, "assistant", "It is 2."),
        (1, "assistant", "It is two."),
    ]
    assert from_record(record).head == 2


def test_what_is_no_text_has_a_placeholder():
    parts = [
        {"content_type": "image_asset_pointer", "asset_pointer": "file-service://file-1", "width": 5},
        "What is this?",
        {"content_type": "audio_transcription", "text": "I said this."},
        {"content_type": "audio_asset_pointer"},
        {"content_type": "new_kind_of_part"},
        {},
        None,
        7,
    ]
    record = conversation(
        node(
            "q",
            None,
            "user",
            {"content_type": "multimodal_text", "parts": parts},
            metadata={"attachments": [{"name": "a.pdf", "id": "f"}, None]},
        ),
        node("a", "q", "tool", {"content_type": "multimodal_text", "parts": [parts[0]]}),
        node("b", "a", "assistant", "A koala\ue200cite\ue202turn0search0\ue201."),
    )
    assert said(record) == [
        (
            None,
            "user",
            "[file: a.pdf]\n\n[file: None]\n\n[image]\n\nWhat is this?\n\nI said this.\n\n[audio]\n\n"
            "[new kind of part]\n\n[something that is no text]",
        ),
        (0, "assistant", "[image]\n\nA koala."),
    ]


@pytest.mark.parametrize(
    ("fields", "head", "title"),
    [
        ({"title": None}, 1, "Question"),
        ({"title": ""}, 1, "Question"),
        ({"current_node": None}, 1, "A title"),
        ({"current_node": "nowhere"}, 1, "A title"),
        ({"current_node": "q"}, 0, "A title"),
        ({"current_node": "root"}, 1, "A title"),
        ({"create_time": None, "update_time": "yesterday"}, 1, "A title"),
    ],
)
def test_fields_that_are_missing_or_odd(fields, head, title):
    record = conversation(
        node("root", None), node("q", "root", "user", "Question"), node("a", "q", "assistant", "Answer"), **fields
    )
    chat = from_record(record)
    assert (chat.head, chat.title) == (head, title)


def test_trees_that_are_none():
    ring = conversation(node("a", "b", "user", "one"), node("b", "a", "assistant", "two"), current_node="c")
    assert said(ring) == [(None, "user", "one"), (0, "assistant", "two")]
    lost = conversation(node("a", "gone", "user", "one"), node("b", "b", "user", "two"), node("c", 7, "user", "three"))
    assert {text for _, _, text in said(lost)} == {"one", "two", "three"}
    deep = conversation(*(node(str(n), str(n - 1), ("user", "assistant")[n % 2], f"{n}") for n in range(5_000)))
    assert len(said(deep)) == 5_000
    for mapping in ({}, [], None, {"a": None}, {"a": node("a", None)}):
        with pytest.raises(Unusable):
            from_record({"mapping": mapping})


def test_a_file_and_its_zip(store, branched, tmp_path):
    other = conversation(node("q", None, "user", "Other"), conversation_id=None, id="c-2", title="Other")
    broken = conversation(node("q", None, "system", "nothing to see"), id="c-3")
    path = tmp_path / "conversations.json"
    path.write_text(json.dumps([branched, broken, other]))
    result = import_file(store, path)
    assert (result.chats, result.messages) == (2, 6)
    assert result.skipped == ["record 2: nothing that can be seen is said in it"]
    chat = next(chat for chat in store.chats() if chat.title == "A title")
    assert [m.content for m in store.path(chat.id)] == ["First", "Answer"]
    assert (chat.created, chat.updated) == (1_700_000_000.0, 1_700_000_100.0)
    with zipfile.ZipFile(tmp_path / "export.zip", "w") as archive:
        archive.writestr("chat.html", "<html>")
        archive.writestr("user.json", "{}")
        archive.writestr("shared_conversations.json", "[]")
        archive.write(path, "some folder/conversations.json")
    assert import_file(store, tmp_path / "export.zip") == ImportResult(0, 0, result.skipped, known=2)


def test_a_zip_in_parts(store, branched, tmp_path):
    with zipfile.ZipFile(tmp_path / "export.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(3):
            record = branched | {"conversation_id": str(number)}
            archive.writestr(f"conversations-{number:03}.json", json.dumps([record, {"mapping": 1}]))
    result = import_file(store, tmp_path / "export.zip")
    assert result.chats == 3
    assert result.skipped[0] == "conversations-000.json, record 2: 'mapping' must be an object of objects"


def test_a_single_conversation(store, branched, tmp_path):
    for indent in (None, 2):
        (tmp_path / "one.json").write_text(json.dumps(branched, indent=indent))
        assert import_file(store, tmp_path / "one.json").skipped == []
    assert len(store.chats()) == 1


def test_a_file_that_was_cut_short(store, branched, tmp_path):
    whole = json.dumps([branched | {"conversation_id": str(number)} for number in range(3)])
    for share, chats in ((0.5, 1), (0.9, 2)):
        (tmp_path / "cut.json").write_text(whole[: int(share * len(whole))])
        result = import_file(store, tmp_path / "cut.json")
        assert result.chats + result.known == chats
        (problem,) = result.skipped
        assert problem.startswith(f"record {chats + 1}: it is no valid JSON (")
        assert problem.endswith("so nothing after it can be read")
    (tmp_path / "cut.json").write_text(whole[:-1])
    assert import_file(store, tmp_path / "cut.json").skipped == ["record 4: the file was cut short before it"]


def test_encodings(store, branched, tmp_path):
    text = json.dumps([branched | {"title": "Bär 世界"}], ensure_ascii=False)
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-16-le"):
        (tmp_path / "x.json").write_bytes(text.encode(encoding))
        assert import_file(store, tmp_path / "x.json").skipped == []
    assert store.chats()[0].title == "Bär 世界"
    (tmp_path / "x.json").write_bytes(text.encode("latin-1", "replace").replace(b"c-1", b"c-9"))
    import_file(store, tmp_path / "x.json")
    assert "B\ufffdr ??" in [chat.title for chat in store.chats()]


def test_zips_that_are_none(store, tmp_path):
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("notes.txt", "x")
    with pytest.raises(InputError, match=r"is a zip without a conversations\.json"):
        import_file(store, tmp_path / "other.zip")
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        archive.writestr("conversations.json", "[" + " " * 1_000 + "]")
    content = bytearray((tmp_path / "bad.zip").read_bytes())
    content[60:70] = b"0123456789"
    (tmp_path / "bad.zip").write_bytes(content)
    with pytest.raises(InputError, match="cannot be read"):
        import_file(store, tmp_path / "bad.zip")


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.data())
@settings(deadline=None, max_examples=200)
def test_no_record_is_an_exception(data):
    record = conversation(
        node("root", None),
        node("q", "root", "user", {"content_type": "multimodal_text", "parts": ["a"]}, metadata={"attachments": []}),
        node("a", "q", "assistant", {"content_type": "code", "text": "x"}),
    )
    for _ in range(data.draw(st.integers(1, 3))):
        place: Any = record
        while isinstance(place, dict) and place:
            name = data.draw(st.sampled_from(sorted(place)))
            if data.draw(st.booleans()) or not isinstance(place[name], dict):
                place[name] = data.draw(anything)
                break
            place = place[name]
    try:
        chat = from_record(record)
    except Unusable:
        return
    assert chat.messages
    assert chat.head is None or 0 <= chat.head < len(chat.messages)
    for place, message in enumerate(chat.messages):
        assert isinstance(message.content, str)
        assert message.parent is None or 0 <= message.parent < place
