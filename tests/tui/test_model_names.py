"""A model by its name: which one is meant, and what is said where that cannot be told."""

import argparse

import pytest

from inference.errors import InputError
from tests.tiny_gguf import write_tiny_gguf
from tui.arguments import build_parser
from tui.config import Config
from tui.model_names import find_by_name
from tui.start import find_model, prepare


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Three models of one name in the working folder, one elsewhere, and none in the usual places."""
    for name in ("HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "HF_HOME", "OLLAMA_MODELS", "LLAMA_CACHE"):
        monkeypatch.setenv(name, str(tmp_path / "nowhere"))
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    for name in ("koala-Q8_0", "koala-Q4_K_M", "wombat"):
        write_tiny_gguf(tmp_path / "here" / f"{name}.gguf")
    write_tiny_gguf(tmp_path / "there" / "Emu-7B.gguf")
    (tmp_path / "here" / "broken.gguf").write_text("no model")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


def found(name, *folders):
    return find_by_name(name, folders).name


def test_a_name_is_that_of_the_file_or_a_part_of_it(folder):
    assert found("koala-Q8_0") == "koala-Q8_0.gguf"
    assert found("KOALA-q8_0") == "koala-Q8_0.gguf"
    assert found("q4") == "koala-Q4_K_M.gguf"
    assert found("emu", folder / "there") == "Emu-7B.gguf"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("koala", "'koala' may be any of koala-Q4_K_M, koala-Q8_0; give more of the name, or the path"),
        ("Tiny Koala", "may be any of koala-Q4_K_M, koala-Q8_0, wombat"),
        ("wombatt", "there is no file wombatt, and no model of that name was found; did you mean wombat?"),
        ("emu", "koala-tui --list shows those on this machine"),
        ("broken", "is not a GGUF file"),
    ],
)
def test_what_cannot_be_told_is_a_sentence(name, said):
    with pytest.raises(InputError, match=said):
        find_by_name(name, [])


def test_a_path_is_never_taken_for_a_name(folder):
    (folder / "here" / "wombat").mkdir()
    for path in ("./emu", "~/emu", "emu.gguf", str(folder / "emu")):
        with pytest.raises(InputError, match="there is no file"):
            find_model(path, Config(folders=(folder / "there",)))
    with pytest.raises(InputError, match="is a folder"):
        find_model("wombat", Config())
    assert find_model("emu", Config(folders=(folder / "there",))) == folder / "there" / "Emu-7B.gguf"
    assert find_model("wombat.gguf", Config()).name == "wombat.gguf"


def test_models_that_were_pulled_are_found(folder, home):
    (home / "models").mkdir(parents=True)
    write_tiny_gguf(home / "models" / "quokka.gguf")
    assert find_model("quokka", Config()) == home / "models" / "quokka.gguf"


def test_without_a_model_the_config_is_asked_and_then_what_was_used_last(folder, home):
    from tui import state
    from tui.model_host import Endpoint

    def target(*arguments):
        parsed: argparse.Namespace = build_parser().parse_args(arguments)
        return prepare(parsed).target

    assert target() is None
    state.remember(last_model=str(folder / "here" / "wombat.gguf"))
    assert target().name == "wombat.gguf"
    (home / "config.yaml").write_text("endpoint: http://localhost:1/v1\nendpoint_model: big\n")
    assert target() == Endpoint("http://localhost:1/v1", "big")
    assert target("--endpoint-model", "small") == Endpoint("http://localhost:1/v1", "small")
    (home / "config.yaml").write_text("endpoint: http://localhost:1/v1\nmodel: koala-Q8_0\n")
    assert target().name == "koala-Q8_0.gguf"
    assert target("q4").name == "koala-Q4_K_M.gguf"
    assert target("--endpoint", "http://localhost:2") == Endpoint("http://localhost:2", None)
    with pytest.raises(InputError, match="exclude each other"):
        target("q4", "--endpoint", "http://localhost:2")
    (folder / "here" / "wombat.gguf").unlink()
    (home / "config.yaml").unlink()
    assert target() is None
