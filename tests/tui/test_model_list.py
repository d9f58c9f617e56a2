import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from inference.machine import Memory
from tests.tiny_gguf import write_tiny_gguf
from tui import model_list
from tui.model_list import list_models

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A machine with nothing on it but the app's own folder."""
    for name in [name for name in os.environ if name.startswith(("XDG_", "HF_", "OLLAMA_", "LLAMA_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KOALA_HOME", str(tmp_path / "koala"))
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    folder = tmp_path / "koala" / "models" / "owner" / "tiny"
    folder.mkdir(parents=True)
    return folder


def run(as_json=False, folders=()):
    out, err = io.StringIO(), io.StringIO()
    assert list_models(out, err, as_json, folders) == 0
    return out.getvalue().splitlines(), err.getvalue()


def test_a_table(home, tmp_path):
    write_tiny_gguf(home / "tiny-F32.gguf")
    (tmp_path / "other").mkdir()
    write_tiny_gguf(tmp_path / "other" / "b.gguf", template=None, n_ctx=0)
    lines, said = run(folders=[tmp_path / "other"])
    assert lines[0].split() == ["name", "quant", "size", "params", "context", "template", "fits", "path"]
    [first, second] = [line.split() for line in lines[1:]]
    assert first == ["tiny-F32", "F32", "2.6", "MB", first[4], "2,048", "own", "yes", str(home / "tiny-F32.gguf")]
    assert second[0] == "b" and second[-4:-1] == ["?", "none", "yes"]
    assert said == ""
    places = [line.index("/") for line in lines[1:]]
    assert places == [lines[0].index("path")] * 2


def test_json_lines(home):
    path = write_tiny_gguf(home / "tiny-F32.gguf")
    (home / "text.gguf").write_text("<html>")
    lines, said = run(as_json=True)
    text, tiny = map(json.loads, lines)
    assert (text["name"], text["path"]) == ("text", str(home / "text.gguf"))
    assert "is not a GGUF file" in text["problem"]
    assert tiny["size"] == path.stat().st_size and tiny["fits"] == "yes"
    assert (tiny["name"], tiny["model"], tiny["context"], tiny["template"]) == ("tiny-F32", "Tiny Koala", 2048, "own")
    assert "problem" not in tiny and said == ""


def test_files_that_are_no_models_are_named_apart(home):
    write_tiny_gguf(home / "tiny.gguf")
    (home / "text.gguf").write_text("<html>")
    lines, said = run()
    assert len(lines) == 2
    assert said == f"note: {home / 'text.gguf'} is not a GGUF file; give a model in the GGUF format\n"


@pytest.mark.parametrize(("memory", "fits"), [(Memory(2**40, 2**40), "yes"), (Memory(2**20, 2**20), "no"), (None, "?")])
def test_whether_it_fits(home, monkeypatch, memory, fits):
    monkeypatch.setattr(model_list, "usable_memory", lambda: memory)
    write_tiny_gguf(home / "tiny.gguf")
    assert f" {fits} " in run()[0][1]
    assert json.loads(run(as_json=True)[0][0])["fits"] == fits


def test_no_model_at_all(home):
    lines, said = run()
    assert lines == [] and said.startswith("note: no model was found; koala-tui --pull")
    assert run(as_json=True)[0] == []


def test_names_do_nothing_to_the_terminal_and_the_columns_stand(home):
    write_tiny_gguf(home / "考拉\x1b[31m\u202e.gguf")
    write_tiny_gguf(home / ("long-" * 30 + ".gguf"))
    lines, _ = run()
    assert "\x1b" not in "".join(lines) and "\u202e" not in "".join(lines)
    widths = {model_list._cells(line[: line.index("F32")]) for line in lines[1:]}
    assert len(widths) == 1 and widths.pop() <= model_list.NAME_CELLS + 2


def test_the_command(home):
    write_tiny_gguf(home / "tiny.gguf")
    done = subprocess.run(
        [sys.executable, "-m", "tui", "--list", "--json"],
        cwd=home, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    [found] = map(json.loads, done.stdout.splitlines())
    assert (found["name"], done.stderr) == ("tiny", "")
