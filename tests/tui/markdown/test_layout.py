import pytest
from hypothesis import given

from tests.tui.markdown.documents import markdown, widths
from tui.markdown.cells import cells
from tui.markdown.layout import Line, column_widths, lay_out
from tui.markdown.parse import parse
from tui.text import harmless


def lines(source: str, width: int = 40) -> list[Line]:
    return lay_out([found.block for found in parse(source)], width)


def shown(source: str, width: int = 40) -> list[str]:
    return [line.text.rstrip() for line in lines(source, width)]


def test_a_page():
    source = """\
# Title
One paragraph that is longer than a line, and
with a break.
- a
  1. b
  2. c

     more
- [ ] task
> quoted
> twice

---
end"""
    assert shown(source) == [
        "Title",
        "One paragraph that is longer than a",
        "line, and",
        "with a break.",
        " • a",
        "    1. b",
        "    2. c",
        "",
        "       more",
        " ☐ task",
        "",
        "▎ quoted",
        "▎ twice",
        "",
        "─" * 40,
        "",
        "end",
    ]


def test_code():
    source = "```python title\nx = 1\n" + "y" * 50 + "\n\n\tz\n```"
    assert shown(source, 30) == [
        " python title             [1]",
        " x = 1",
        " " + "y" * 28,
        " ↪ " + "y" * 22,
        "",
        "     z",
    ]
    header, *code = lines(source, 30)
    assert [action.name for action in header.actions] == ["copy"] and header.actions[0].value == 1
    assert [line.glue for line in code] == [None, None, "", None, None]
    assert all(line.fill == "fence" for line in code)


def test_a_table_takes_the_width_that_it_needs():
    assert shown("| a | long | right |\n|---|:-:|---:|\n| 1 | x | 10 |\n| 22 | | 9 |") == [
        "a  │ long │ right",
        "───┼──────┼──────",
        "1  │  x   │    10",
        "22 │      │     9",
    ]


def test_a_table_that_is_too_wide_has_cells_of_several_lines():
    table = shown(
        f"| name | text |\n|---|---|\n| alpha | {'word ' * 20}|\n| beta | 日本語日本語日本語日本語日本語日本語 |"
    )
    assert table[0] == "name  │ text"
    assert table[2] == "alpha │ word word word word word word"
    assert table[3] == "      │ word word word word word word"
    assert all(cells(line) <= 40 for line in table)


def test_a_table_that_is_far_too_wide_becomes_records():
    header = "| " + " | ".join(f"column {n}" for n in range(8)) + " |\n" + "|---" * 8 + "|\n"
    rows = "".join("| " + " | ".join(f"value {row}{n}" for n in range(8)) + " |\n" for row in range(2))
    table = shown(header + rows, 40)
    assert table[:3] == ["column 0: value 00", "column 1: value 01", "column 2: value 02"]
    assert table[8:10] == ["", "column 0: value 10"] and len(table) == 17


@pytest.mark.parametrize(
    ("needs", "width", "expected"),
    [
        ([(5, 5), (5, 5)], 13, [5, 5]),
        ([(5, 5), (50, 8)], 30, [5, 22]),
        ([(40, 5), (40, 5)], 33, [15, 15]),
        ([(40, 30), (40, 5)], 33, [18, 12]),
        ([(40, 5)] * 4, 25, None),
    ],
)
def test_widths_of_columns(needs, width, expected):
    assert column_widths(needs, width) == expected


def test_a_narrow_page_does_not_indent_for_ever():
    source = "".join("  " * depth + f"- level {depth}\n" for depth in range(12))
    assert all(cells(line) <= 24 for line in shown(source, 24))
    assert [f"level {depth}" in " ".join(shown(source, 24)) for depth in range(12)] == [True] * 12


def test_what_is_decoration_is_known():
    item, wrapped, _, quote = lines("- a word, and yet another one\n\n> said", 22)
    assert item.text[item.lead :] == " • a word, and yet"
    assert wrapped.text[wrapped.lead :] == "another one" and wrapped.glue == " "
    assert quote.text[quote.lead :] == "said"


@given(markdown, widths)
def test_no_line_is_too_wide(source, width):
    assert all(cells(line.text) <= width for line in lines(harmless(source), width))


@given(markdown, widths)
def test_every_letter_appears(source, width):
    source = harmless(source)
    wanted = [c for c in source.replace("<br>", "").replace("[x]", "") if c.isalpha() and c not in "xX"]
    found = iter("".join(line.text for line in lines(source, width)))
    missing = [c for c in wanted if c not in found]
    assert not missing
