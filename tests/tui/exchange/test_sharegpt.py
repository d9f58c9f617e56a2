import json
from random import Random

import pytest
from hypothesis import given, settings

from datasets_cfg.conversation import Unusable
from datasets_cfg.rows import read_rows
from datasets_cfg.sources import sharegpt as source
from tui.exchange import ImportResult, export_chats, import_file
from tui.exchange.sharegpt import to_lines
from tui.store import WholeChat, WholeMessage

from .conftest import chats


def test_the_shown_branch(example):
    (line,) = to_lines(example)
    assert json.loads(line) == {
        "id": "example",
        "conversations": [
            {"from": "system", "value": "Be brief."},
            {"from": "human", "value": "What is a tree in computing?"},
            {"from": "gpt", "value": "A connected graph without cycles."},
        ],
    }


def test_all_branches(example):
    rows = [json.loads(line) for line in to_lines(example, branches=True)]
    assert [row["id"] for row in rows] == ["example", "example-2", "example-3"]
    assert [row["conversations"][-1]["value"] for row in rows] == [
        "A connected graph without cycles.",
        "A plant.",
        "A graph",
    ]


@pytest.mark.parametrize("name", ["x.jsonl", "x.json"])
@pytest.mark.parametrize("form", ["sharegpt", "sharegpt-branches"])
def test_the_training_data_reads_it(store, example, tmp_path, name, form):
    ids = [store.put(chat).chat_id for chat in (example, WholeChat("empty", []))]
    export_chats(store, ids, form, tmp_path / name)
    rows = list(read_rows(tmp_path / name))
    assert len(rows) == (1 if form == "sharegpt" else 3)
    for row in rows:
        (conversation,) = source.conversations(row.fields, {}, Random(0))
        assert [role for role, _ in conversation.turns] == ["user", "assistant"]


@given(chats())
@settings(deadline=None)
def test_the_training_data_reads_any_chat(chat):
    for line in to_lines(chat, branches=True):
        fields = json.loads(line)
        assert source.key(fields)
        for conversation in source.conversations(fields, {}, Random(0)):
            assert isinstance(conversation, Unusable) or conversation.turns


def test_rows_become_chats(store, tmp_path):
    rows = [
        {
            "id": "a_0",
            "conversations": [
                {"from": "system", "value": "Be kind."},
                {"from": "human", "value": "Hello\nthere"},
                {"from": "gpt", "value": "Hi"},
            ],
        },
        {"id": "a_0", "conversations": [{"from": "user", "value": "Other"}, {"from": "chatgpt", "value": "Yes"}]},
        {"messages": [{"role": "user", "content": "As trained"}, {"role": "assistant", "content": "Indeed"}]},
        {"id": "b", "conversations": [{"from": "alien", "value": "x"}]},
        {"id": "c", "conversations": []},
        {"id": "d", "conversations": [{"from": "human"}]},
        {"id": "e", "conversations": "none"},
    ]
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows, indent=2))
    result = import_file(store, path)
    assert (result.chats, result.messages) == (3, 6)
    assert result.skipped == [
        "record 4: somebody called 'alien' speaks in it; known are human, user, gpt, chatgpt, assistant, model, bing, "
        "bard, system",
        "record 5: nothing is said in it",
        "record 6: it has no 'value'",
        "record 7: 'conversations' must be a list of objects",
    ]
    by_title = {chat.title: chat for chat in store.chats()}
    assert by_title.keys() == {"Hello", "Other", "As trained"}
    assert by_title["Hello"].settings == {"system": "Be kind."}
    assert [(m.role, m.content) for m in store.path(by_title["Hello"].id)] == [
        ("user", "Hello\nthere"),
        ("assistant", "Hi"),
    ]
    assert import_file(store, path) == ImportResult(0, 0, result.skipped, known=3)


def test_an_exported_chat_comes_back(store, example, tmp_path):
    export_chats(store, [store.put(example).chat_id], "sharegpt", tmp_path / "x.jsonl")
    assert import_file(store, tmp_path / "x.jsonl").messages == 2
    chat = store.take(max(chat.id for chat in store.chats()))
    assert [(m.role, m.content) for m in chat.messages] == [
        ("user", "What is a tree in computing?"),
        ("assistant", "A connected graph without cycles."),
    ]
    assert chat.settings == {"system": "Be brief."}


def test_messages_without_text_are_left_out():
    chat = WholeChat("u", [WholeMessage(None, "user", "q"), WholeMessage(0, "assistant", "", state="failed")], head=1)
    (line,) = to_lines(chat)
    assert json.loads(line)["conversations"] == [{"from": "human", "value": "q"}]
    assert list(to_lines(WholeChat("u", [WholeMessage(None, "user", "")], head=0))) == []
