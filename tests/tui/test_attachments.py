import pytest

from inference.errors import InputError
from tui.attachments import MAX_BYTES, dropped_files, fenced, read_text


def test_ways_in_which_terminals_paste_a_dropped_file(tmp_path):
    plain, spaced = tmp_path / "a.txt", tmp_path / "it's a b.txt"
    plain.write_text("a")
    spaced.write_text("b")
    assert dropped_files(str(plain)) == [plain]
    assert dropped_files(f"{plain}\n") == [plain]
    assert dropped_files(f"'{plain}' ") == [plain]
    assert dropped_files(str(spaced)) == [spaced]
    assert dropped_files(str(spaced).replace(" ", "\\ ").replace("'", "\\'")) == [spaced]
    assert dropped_files(f"file://{str(spaced).replace(' ', '%20')}") == [spaced]
    assert dropped_files(f"'{plain}' \"{spaced}\"") == [plain, spaced]


@pytest.mark.parametrize("text", ["", "hello", "/no/such/file", "a 'b", "x" * 10_000, "~nobody/x", "\0", "two\nlines"])
def test_other_texts_are_no_files(text):
    assert dropped_files(text) == []


def test_a_word_that_happens_to_be_a_file_here_is_only_taken_where_it_is_all(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes").write_text("x")
    assert dropped_files("notes and notes") == []


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("Grüße\r\nzwei".encode(), "Grüße\nzwei"),
        ("Grüße".encode("utf-8-sig"), "Grüße"),
        ("Grüße".encode("utf-16"), "Grüße"),
        ("Grüße".encode("cp1252"), "Grüße"),
        (b"\x1b[31mred", "␛[31mred"),
        (b"", ""),
    ],
)
def test_text_in_whatever_encoding(tmp_path, data, text):
    (tmp_path / "f").write_bytes(data)
    assert read_text(tmp_path / "f") == text


def test_refusals(tmp_path):
    (tmp_path / "bin\x1b").write_bytes(b"\0")
    (tmp_path / "big").write_bytes(b"x" * (MAX_BYTES + 1))
    for name, said in (("bin\x1b", "bin␛ is no text file"), ("big", "takes files of up to 512 kB"), ("no", "no file")):
        with pytest.raises(InputError, match=said):
            read_text(tmp_path / name)
    with pytest.raises(InputError, match="only a folder"):
        read_text(str(tmp_path))


def test_a_fence_is_longer_than_any_in_the_text(tmp_path):
    assert fenced(tmp_path / "a.py", "x\n") == "a.py:\n```py\nx\n```\n"
    assert fenced(tmp_path / "a", "````\nx") == "a:\n`````\n````\nx\n`````\n"
