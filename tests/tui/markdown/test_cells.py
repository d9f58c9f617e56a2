from hypothesis import given
from hypothesis import strategies as st

from tui.markdown.cells import cells, chop, clusters, wrap

FAMILY, ACCENT = "👩‍👩‍👧", "e\u0301"
texts = st.lists(st.sampled_from(["a", "word", " ", "  ", "\n", "日本", "。", FAMILY, ACCENT, "-", "❤️"])).map("".join)


def broken(text: str, width: int) -> list[str]:
    return [text[start:end] for start, end, _ in wrap(text, width)]


def test_words_are_kept_whole():
    assert broken("one two three", 7) == ["one two", "three"]
    assert broken("one\n\n two", 7) == ["one", "", " two"]


def test_a_word_that_is_too_long_is_cut():
    assert broken("a abcdefghij b", 4) == ["a", "abcd", "efgh", "ij b"]
    assert [glue for _, _, glue in wrap("a abcdefghij b", 4)] == [None, " ", "", ""]


def test_wide_characters_need_no_spaces():
    assert broken("日本語の文章。", 6) == ["日本語", "の文", "章。"]


def test_nothing_is_torn_apart():
    assert list(clusters(f"a{FAMILY}{ACCENT}❤️")) == ["a", FAMILY, ACCENT, "❤️"]
    assert chop(ACCENT * 5, 2) == [ACCENT * 2, ACCENT * 2, ACCENT]
    assert chop("abcdef", 2, first=3) == ["abc", "de", "f"]


@given(texts, st.integers(2, 20))
def test_no_line_is_too_wide_and_nothing_is_lost(text, width):
    lines = wrap(text, width)
    assert all(cells(text[start:end]) <= width for start, end, _ in lines)
    position = 0
    for number, (start, end, glue) in enumerate(lines):
        between = text[position:start]
        assert between.strip(" ") == ("\n" if number and glue is None else "") and start <= end
        if glue is not None:
            assert (glue == "") == (between == "")
        position = end
    assert text[position:].strip(" ") == ""


@given(texts.filter(lambda text: "\n" not in text), st.integers(2, 9), st.integers(2, 9))
def test_chopping_loses_nothing(text, width, first):
    pieces = chop(text, width, first)
    assert "".join(pieces) == text
    assert cells(pieces[0]) <= max(first, 2) and all(cells(piece) <= width for piece in pieces[1:])
