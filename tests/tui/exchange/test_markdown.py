import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from markdown_it import MarkdownIt

from tui.exchange import export_chats
from tui.exchange.fences import fenced
from tui.exchange.markdown import to_text
from tui.store import WholeChat, WholeMessage

from .conftest import chats, texts

HEADING = re.compile(r"## \d+\. ")


@pytest.fixture(autouse=True)
def utc(monkeypatch):
    import time

    monkeypatch.setattr(time, "localtime", time.gmtime)


def test_a_chat(store, example, tmp_path):
    export_chats(store, [store.put(example).chat_id], "markdown", tmp_path / "chat.md")
    assert (tmp_path / "chat.md").read_text() == (
        """\
# Trees \\*and\\* such

Begun on 2023-11-14 22:13, 5 messages.

Settings:

```json
{
  "system": "Be brief.",
  "sampling": {
    "temperature": 0.5
  }
}
```

## 1. You · ‹2/2› · 2023-11-14 22:13

What is a tree in computing?

## 2. Assistant · ‹2/2› · 2023-11-14 22:13

A connected graph without cycles.

## Other branches

## 3. You · ‹1/2› · at the beginning · 2023-11-14 22:13

What is a tree?

## 4. Assistant · after 3 · 2023-11-14 22:13 · koala-7b

A plant.

## 5. Assistant · ‹1/2› · after 1 · 2023-11-14 22:13 · not finished

A graph

## Draft

and then
"""
    )


def test_several_chats_in_one_file(store, example, tmp_path):
    ids = [store.put(replace(example, uid=name, title=name)).chat_id for name in ("one", "two")]
    export_chats(store, ids, "markdown", tmp_path / "chat.md")
    text = (tmp_path / "chat.md").read_text()
    assert text.startswith("# one\n") and "\n\n---\n\n# two\n" in text


def structure(text: str) -> list[str]:
    """The headings at the top level of the Markdown text that are not a message's."""
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    return [
        tokens[place + 1].content
        for place, token in enumerate(tokens)
        if token.type == "heading_open"
        and token.level == 0
        and token.tag in ("h1", "h2")
        and token.markup == "#" * int(token.tag[1])
    ]


@pytest.mark.parametrize(
    "text",
    [
        "```python\nnever closed",
        "<!-- a comment that",
        "<script>",
        "<details>\n\nfolded",
        "<div>",
        "an <b> inline",
        "## 2. Assistant · fake\n\nI said this.",
        "# 7. You",
        "## Other branches",
        "[1]: https://example.com\n\nsee [1]",
        "`````\nmany ````` backticks ``````",
        "<![CDATA[ x",
        "text\x00",
    ],
)
def test_nothing_breaks_out_of_a_message(text):
    chat = WholeChat("u", [WholeMessage(None, "user", text), WholeMessage(0, "assistant", "safe")], head=1, title="t")
    written = to_text(chat)
    assert text in written
    assert structure(written) == ["t", "1. You", "2. Assistant"]
    tokens = MarkdownIt("commonmark").parse(written)
    (block,) = [token for token in tokens if token.type == "fence"]
    assert block.content == text.replace("\x00", "\ufffd") + "\n"
    assert tokens[-2].content == "safe"


@pytest.mark.parametrize(
    "text",
    [
        "Hello, **world**!\nSecond line",
        "```python\nprint('#')\n```",
        "| a | b |\n|---|---|\n| 1 | 2 |",
        "- one\n  - two\n    ```\n    x\n    ```\n- three",
        "### A heading\n\ntext\n\n## Another\n",
        "1 < 2 && 3 > 2",
        "- a list\n  ~~~~\n  never closed",
        "> quote\n> ```\nlazy",
        "> quote",
        "    indented",
        "$x^2$ and `code`",
    ],
)
def test_what_stays_inside_is_written_as_it_is(text):
    written = to_text(WholeChat("u", [WholeMessage(None, "user", text)], head=0, title="t"))
    assert written == f"# t\n\n## 1. You\n\n{text}\n"


@given(chats())
@settings(deadline=None, max_examples=60)
def test_every_text_is_in_it_unaltered_and_every_message_has_its_heading(chat):
    written = to_text(chat)
    for message in chat.messages:
        assert message.content in written
    ours = [heading for heading in structure(written) if re.match(r"\d+\. (You|Assistant|System)", heading)]
    assert [int(heading.partition(".")[0]) for heading in ours] == list(range(1, len(chat.messages) + 1))


@given(texts)
@settings(deadline=None)
def test_a_fence_holds_any_text(text):
    text = "".join(text.split("\x00")).replace("\r", "")
    tokens = MarkdownIt("commonmark").parse(fenced(text, "text"))
    assert [token.type for token in tokens] == ["fence"]
    assert tokens[0].content == text + "\n"


@pytest.mark.parametrize("language", ["python`", "a b", "x\ny"])
def test_a_language_cannot_break_a_fence(language):
    assert fenced("x", language) == "```\nx\n```"


def test_titles_and_models_are_no_markup():
    chat = WholeChat(
        "u",
        [WholeMessage(None, "assistant", "x", details={"model": "<b>*m*\n# y"})],
        head=0,
        title="<script>\n\n# 1. You [x](y)",
    )
    written = to_text(chat)
    assert written.startswith("# \\<script\\> \\# 1. You \\[x\\](y)\n")
    assert "## 1. Assistant · \\<b\\>\\*m\\* \\# y\n" in written


def test_empty_things():
    assert to_text(WholeChat("u", [])) == "# A chat without a title\n"
    written = to_text(WholeChat("u", [WholeMessage(None, "assistant", "", state="failed")], head=0, title="t"))
    assert written == "# t\n\n## 1. Assistant · failed\n\n*(empty)*\n"


def test_half_a_character_becomes_an_escape(store, tmp_path):
    chat_id = store.put(WholeChat("u", [WholeMessage(None, "user", "a\ud800b")], head=0)).chat_id
    export_chats(store, [chat_id], "markdown", tmp_path / "x.md")
    assert "a\\ud800b" in (tmp_path / "x.md").read_text()
