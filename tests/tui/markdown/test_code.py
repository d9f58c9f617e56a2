import pytest

from tui.markdown.code import MAX_LINE, STYLES, LineColourer, coloured

PYTHON = ["def f(x):", '    """One', "", "    two", '    """', "\treturn x + 1  # three", ""]


def plain(runs) -> str:
    return "".join(run.text for run in runs)


def styles(runs) -> dict[str, str]:
    return {run.text.strip(): run.style for run in runs}


def test_colours():
    lines = coloured(PYTHON, "python")
    assert [plain(runs) for runs in lines] == [line.expandtabs(4) for line in PYTHON]
    assert styles(lines[0])["def"] == "keyword" and styles(lines[0])["f"] == "name"
    assert styles(lines[3]) == {"two": "string"}
    assert styles(lines[5])["# three"] == "comment"
    assert {run.style for runs in lines for run in runs} <= {"", *STYLES}


@pytest.mark.parametrize(
    ("language", "code"),
    [
        ("python", "\n".join(PYTHON)),
        ("c", "int a; /* one\ntwo */ int b;\n// three\nint c;"),
        ("js", "const a = `one\ntwo ${x}\n`; let b = 1;"),
        ("diff", "- a\n+ b"),
    ],
)
def test_line_by_line_it_looks_the_same(language, code):
    lines = code.split("\n")
    colourer = LineColourer(language)
    for line, whole in zip(lines, coloured(lines, language), strict=True):
        colourer.colour(line[: len(line) // 2], complete=False)
        alone = colourer.colour(line, complete=True)
        assert plain(alone) == plain(whole)
        inside = {run.style for run in whole} & {"string", "comment"}
        assert {run.style for run in alone} & {"string", "comment"} == inside, line


@pytest.mark.parametrize("language", ["", "no such language", "python"])
def test_anything_may_be_called_code(language):
    lines = ["\ufeff\x00 'a", "x" * (MAX_LINE + 1), "", "日本 = 'e\u0301'", '"""', "[b]"]
    assert [plain(runs) for runs in coloured(lines, language)] == lines


def test_a_lexer_that_fails_does_no_harm(monkeypatch):
    def fail(*_, **__):
        raise RecursionError

    monkeypatch.setattr("tui.markdown.code.highlight", fail)
    assert [plain(runs) for runs in coloured(["a", "b"], "python")] == ["a", "b"]
