import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tui.markdown.documents import markdown, widths
from tui.markdown import stream
from tui.markdown.blocks import Run
from tui.markdown.stream import TAIL, Document, Page
from tui.text import harmless

TABLE = "| Name | Value | Words |\n|---|--:|---|\n" + "".join(
    f"| item {n} | {n * 37 % 1000} | some *words* about {n} |\n" for n in range(96)
)
LIST = "".join(f"{n}. item **{n}** of many\n   - with `code`\n" for n in range(1, 130))
FENCE = "```python\n" + 'def f():\n    """Doc\n    string"""\n    return 1  # one\n' * 70 + "```\n"
PARAGRAPHS = "Some *words* that make up a paragraph, again and again.\n\n" * 120
ENDLESS = "word and " * 1500


def page_of(text: str, width: int = 60) -> Page:
    page = Page(Document.whole(text), width)
    page.update()
    return page


def pieces(text: str, seed: int = 1, longest: int = 8):
    chance, at = random.Random(seed), 0
    while at < len(text):
        size = chance.randint(1, longest)
        yield text[at : at + size]
        at += size


@settings(max_examples=300)
@given(markdown, widths, st.lists(st.integers(1, 9), min_size=1))
def test_in_pieces_it_becomes_what_it_is_as_a_whole(text, width, sizes):
    text = harmless(text)
    document = Document()
    page = Page(document, width)
    at = count = 0
    while at < len(text):
        size = sizes[count % len(sizes)]
        document.add(text[at : at + size])
        at, count = at + size, count + 1
        document.update()
        before = list(page.lines)
        changed = page.update()
        assert page.lines[:changed] == before[:changed]
    document.finish()
    page.update()
    whole = Document.whole(text)
    assert document.frozen == whole.frozen and document.tail == []
    assert page.lines == page_of(text, width).lines
    assert document.code_blocks() == whole.code_blocks()


@given(markdown, widths)
def test_as_it_grows_nothing_that_was_written_is_missing(text, width):
    document = Document()
    page = Page(document, width)
    for character in harmless(text):
        document.add(character)
        document.update()
        page.update()
        # A fence hides what could become its end, and what is syntax is not shown at all.
        if character.isalnum() and character not in "xX" and not character.isdecimal():
            assert any(character in line.text for line in page.lines[-20:])


@pytest.mark.parametrize("text", [TABLE, LIST, FENCE, PARAGRAPHS], ids=["table", "list", "fence", "paragraphs"])
def test_the_work_for_a_piece_does_not_depend_on_how_much_there_is(text, monkeypatch):
    parsed = []
    monkeypatch.setattr(stream, "parse", _counting(stream.parse, parsed))
    document = Document()
    page = Page(document, 60)
    per_piece = []
    for piece in pieces(text):
        before = sum(parsed)
        document.add(piece)
        document.update()
        page.update()
        per_piece.append(sum(parsed) - before)
    assert max(per_piece) < 250
    tenth = len(per_piece) // 10
    assert sum(per_piece[-tenth:]) < 1.5 * sum(per_piece[tenth : 2 * tenth])
    document.finish()
    page.update()
    assert page.lines == page_of(text).lines


def test_even_an_endless_paragraph_is_not_parsed_for_every_piece(monkeypatch):
    parsed = []
    monkeypatch.setattr(stream, "parse", _counting(stream.parse, parsed))
    document = Document()
    page = Page(document, 60)
    for piece in pieces(ENDLESS, longest=40):
        document.add(piece)
        document.update()
        page.update()
    beyond = len(ENDLESS) - TAIL
    assert sum(size for size in parsed if size > TAIL) < 12 * beyond
    assert "".join("".join(line.text for line in page.lines).split()) == "".join(ENDLESS.split())
    document.finish()
    page.update()
    assert page.lines == page_of(ENDLESS).lines


@pytest.mark.parametrize("text", [TABLE, LIST, FENCE], ids=["table", "list", "fence"])
def test_lines_that_did_not_change_are_the_same_objects(text):
    document = Document()
    page = Page(document, 60)
    document.add(text[: len(text) // 2])
    document.update()
    page.update()
    early = page.lines[: len(page.lines) - 5]
    for piece in pieces(text[len(text) // 2 : -20]):
        document.add(piece)
        document.update()
        assert page.update() >= len(early)
    assert all(now is then for now, then in zip(page.lines, early, strict=False))


def test_each_row_is_laid_out_once(monkeypatch):
    from tui.markdown import layout

    rows = []
    original = layout._row_lines
    monkeypatch.setattr(layout, "_row_lines", lambda row, *rest: rows.append(row) or original(row, *rest))
    document = Document()
    page = Page(document, 60)
    for line in TABLE.splitlines(keepends=True):
        document.add(line)
        document.update()
        page.update()
    # All of them again where a column becomes wider: at items 0, 1 and 10.
    assert len(rows) < TABLE.count("\n") + 30


@pytest.mark.parametrize("seed", range(20))
def test_a_fence_never_goes_blank(seed):
    text = "Look:\n\n```python\nx = 1\ny = 2\n```\n\nDone.\n\n~~~\nz\n~~~\n"
    document = Document()
    page = Page(document, 40)
    most = 0
    for piece in pieces(text, seed):
        document.add(piece)
        document.update()
        page.update()
        seen = [line.text.strip() for line in page.lines]
        lines = sum(line in ("x = 1", "y = 2", "z") for line in seen)
        assert lines >= most and not any(mark in line for mark in "`~" for line in seen)
        most = lines
    assert most == 3


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("some **bold te", [Run("some "), Run("bold te", "strong")]),
        ("some **bold **", [Run("some "), Run("bold", "strong")]),
        ("some **", [Run("some")]),
        ("2 ** 3", [Run("2 ** 3")]),
        ("`co", [Run("co", "code")]),
        ("a `**b` ~~c", [Run("a "), Run("**b", "code"), Run(" "), Run("c", "strike")]),
        ("open **for good\nnext", [Run("open **for good\nnext")]),
    ],
)
def test_markers_do_not_flicker(text, shown):
    document = Document()
    document.add(text)
    document.update()
    assert document.tail[0].runs == shown
    document.finish()
    assert document.frozen == Document.whole(text).frozen


def test_columns_grow_with_their_cells():
    document = Document()
    page = Page(document, 60)
    document.add("| a | b |\n|---|---|\n| 1 | 2 |\n")
    document.update()
    page.update()
    document.add("| longer | 3 |\n")
    document.update()
    assert page.update() == 0
    assert [line.text for line in page.lines] == ["a      │ b", "───────┼──", "1      │ 2", "longer │ 3"]


def test_a_document_knows_its_code_while_it_is_written():
    document = Document()
    document.add("```\none\n```\n- a\n  ```\n  two\n  ```\n- b\n\n```\nthr")
    document.update()
    assert document.code_blocks() == ["one", "two", "thr"]
    document.add("ee")
    document.finish()
    assert document.code_blocks() == ["one", "two", "three"]


def _counting(parse, sizes: list[int]):
    def counted(source: str, **options):
        sizes.append(len(source))
        return parse(source, **options)

    return counted
