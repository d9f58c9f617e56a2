import pytest

from tui.markdown.blocks import Code, Heading, ListBlock, Paragraph, Quote, Rule, Run, Table
from tui.markdown.parse import parse


def one(source: str):
    [found] = parse(source)
    return found.block


def text(runs) -> str:
    return "".join(run.text for run in runs)


def test_every_kind_of_block():
    source = "# T\n\npara\n\n- a\n\n> q\n\n```py\nx\n```\n\n| a |\n|---|\n| b |\n\n---\n"
    kinds = [type(found.block) for found in parse(source)]
    assert kinds == [Heading, Paragraph, ListBlock, Quote, Code, Table, Rule]


def test_inline_styles_go_into_each_other():
    assert one("a **b *c* `d`** ~~e~~").runs == [
        Run("a "),
        Run("b ", "strong"),
        Run("c", "strong em"),
        Run(" ", "strong"),
        Run("d", "strong code"),
        Run(" "),
        Run("e", "strike"),
    ]


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("[text](http://a.b)", "text (http://a.b)"),
        ("[http://a.b](http://a.b)", "http://a.b"),
        ("[safe](http://evil.example 'title')", 'safe (http://evil.example "title")'),
        ("<http://a.b> and www.c.org", "http://a.b and www.c.org"),
        ("me@a.org", "me@a.org"),
        ("![a picture](pic.png)", "a picture (pic.png)"),
        ("[x](javascript:alert)", "[x](javascript:alert)"),
        ("http://münchen.de/ü", "http://münchen.de/ü"),
    ],
)
def test_where_a_link_leads_can_be_seen(source, shown):
    assert text(one(source).runs) == shown


@pytest.mark.parametrize(
    "source",
    [
        "<b>not HTML</b> &lt; &#27; <!-- a remark -->",
        "[ref]: http://a.b 'title'",
        "see [ref] and [ref][other]",
        "[b]no markup[/b]",
        r"\(a_1 * b_1 * c\) and \[x_1 = y_1\] and $$a*b*c$$",
    ],
)
def test_nothing_is_swallowed(source):
    assert text(one(source).runs) == source


def test_line_breaks_are_kept():
    assert text(one("one\ntwo  \nthree").runs) == "one\ntwo\nthree"


def test_lists():
    block = one("3. a\n4. b\n\n   more\n   - [x] c\n   - [ ] d\n")
    assert [item.marker for item in block.items] == ["3.", "4."]
    nested = block.items[1].blocks[2]
    assert [item.done for item in nested.items] == [True, False]
    assert text(nested.items[0].blocks[0].runs) == "c"


@pytest.mark.parametrize(
    ("written", "shown"), [("1. a\n1. b\n1. c", "1. 2. 3."), ("2. a\n5. b\n3. c", "2. 5. 6."), ("1) a", "1)")]
)
def test_numbers_are_those_that_were_written_as_far_as_they_rise(written, shown):
    assert " ".join(item.marker for item in one(written).items) == shown


def test_cells_beyond_the_last_column_stay():
    block = one("| a | b |\n|---|--:|\n| 1 | 2 | 3 | 4 |\n| x | y\\|z |\n| 1 | | 3\n| only |")
    assert block.aligns == ["", "right"]
    rows = [[text(cell) for cell in row] for row in block.rows]
    assert rows == [["1", "2 | 3 | 4"], ["x", "y|z"], ["1", "| 3"], ["only", ""]]


def test_a_cell_may_have_lines():
    block = one("| a |\n|---|\n| x<br>y `<br>` |")
    assert text(block.rows[0][0]) == "x\ny <br>"


def test_code_is_numbered_through_lists_and_quotes():
    found = parse("```a\n1\n```\n- x\n  ```b\n  2\n  ```\n\n> ```c\n> 3\n\n    4\n", codes=4)
    codes = [found[0].block, found[1].block.items[0].blocks[1], found[2].block.blocks[0], found[3].block]
    assert [(code.number, code.language, code.source) for code in codes] == [
        (5, "a", "1"),
        (6, "b", "2"),
        (7, "c", "3"),
        (8, "", "4"),
    ]


@pytest.mark.parametrize("source", ["```\nx", "```\nx\n", "```\nx\n\n", "```", "~~~py\n```\n"])
def test_an_open_fence_is_known_as_such(source):
    assert not one(source).closed
    assert one(source.rstrip("\n") + "\n" + source[:3]).closed


@pytest.mark.parametrize(
    "source", ["> " * 300 + "deep", "- " * 300 + "deep", "".join(" " * 2 * n + "- deep\n" for n in range(60))]
)
def test_what_is_nested_too_deeply_is_text(source):
    def words(blocks) -> str:
        found = ""
        for block in blocks:
            if isinstance(block, Paragraph):
                found += text(block.runs)
            elif isinstance(block, ListBlock):
                found += words(inner for item in block.items for inner in item.blocks)
            else:
                found += words(block.blocks)
        return found

    assert words(found.block for found in parse(source)).count("deep") == source.count("deep")


def test_empty_lines_are_noticed():
    first, second, third = parse("a\n- b\n- c\n\n- d\n\ne")
    assert (first.block.gap, second.block.gap, third.block.gap) == (False, False, True)
    assert [item.gap for item in second.block.items] == [False, False, True]
