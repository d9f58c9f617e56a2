import json
import os
import shutil
import time
from pathlib import Path

import gguf
import numpy as np
import pytest

from inference import scan
from inference.scan import find_models, usual_places
from tests.tiny_gguf import write_tiny_gguf

VARIABLES = ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "LLAMA_CACHE", "OLLAMA_MODELS", "LOCALAPPDATA")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("model") / "tiny.gguf")


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A home folder with nothing in it; the working folder is another one."""
    monkeypatch.setattr(scan.sys, "platform", "linux")
    for variable in (*VARIABLES, "XDG_CACHE_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(variable, raising=False)
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    work.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(work)
    return home


def put(model: Path, target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(model, target)
    return target


def put_ollama(model: Path, root: Path, name: str, digest: str) -> None:
    put(model, root / "blobs" / f"sha256-{digest}")
    manifest = root / "manifests" / name
    manifest.parent.mkdir(parents=True, exist_ok=True)
    layers = [
        {"mediaType": "application/vnd.ollama.image.license", "digest": "sha256:" + "9" * 64},
        {"mediaType": scan.OLLAMA_MODEL, "digest": f"sha256:{digest}"},
    ]
    manifest.write_text(json.dumps({"schemaVersion": 2, "layers": layers}))


def found(*folders, **options) -> list[tuple[str, Path]]:
    return [(one.place, one.path) for one in find_models(folders, **options)]


def test_nothing_anywhere(home):
    assert found() == []
    assert found("nowhere", home / "a\0b", "~nobody/models") == []
    Path.cwd().rmdir()
    assert found() == []


def test_the_usual_places(home, model):
    snapshot = home / ".cache/huggingface/hub/models--owner--name/snapshots/0123"
    blob = put(model, snapshot.parent.parent / "blobs" / "abc")
    (snapshot / "sub").mkdir(parents=True)
    (snapshot / "sub" / "m.gguf").symlink_to(blob)
    expected = [
        ("this folder", put(model, Path("inner/x.gguf").absolute())),
        ("~/models", put(model, home / "models/a/b/x.GGUF")),
        ("Hugging Face Hub", snapshot / "sub" / "m.gguf"),
        ("LM Studio", put(model, home / ".lmstudio/models/publisher/repository/x.gguf")),
        ("LM Studio", put(model, home / ".cache/lm-studio/models/publisher/repository/x.gguf")),
        ("llama.cpp", put(model, home / ".cache/llama.cpp/x.gguf")),
        ("GPT4All", put(model, home / ".local/share/nomic.ai/GPT4All/x.gguf")),
    ]
    assert found() == expected
    assert found(usual=False) == []


@pytest.mark.parametrize(
    ("variable", "inner"),
    [("HF_HOME", "hub/models--a--b/snapshots/1"), ("HF_HUB_CACHE", "models--a--b/snapshots/1"), ("LLAMA_CACHE", "")],
)
def test_folders_that_were_moved(home, model, monkeypatch, variable, inner):
    path = put(model, home / "moved" / inner / "x.gguf")
    assert found() == []
    monkeypatch.setenv(variable, "~/moved")
    assert [path for _, path in found()] == [path]


@pytest.mark.parametrize(
    ("platform", "expected"),
    [
        ("darwin", {"Library/Caches/llama.cpp", "Library/Application Support/nomic.ai/GPT4All"}),
        ("win32", {"AppData/Local/llama.cpp", "AppData/Local/nomic.ai/GPT4All"}),
    ],
)
def test_other_systems(home, monkeypatch, platform, expected):
    monkeypatch.setattr(scan.sys, "platform", platform)
    assert {str(home / folder) for folder in expected} < {str(place.folder) for place in usual_places()}


def test_ollama_s_names(home, model):
    root = home / ".ollama/models"
    put_ollama(model, root, "registry.ollama.ai/library/llama3.2/3b", "a" * 64)
    put_ollama(model, root, "registry.ollama.ai/someone/tuned/latest", "b" * 64)
    put_ollama(model, root, "hf.co/owner/repo/Q4_K_M", "c" * 64)
    put_ollama(model, root, "registry.ollama.ai/library/again/3b", "a" * 64)
    models = list(find_models())
    assert {one.header.name for one in models} == {"again:3b", "someone/tuned:latest", "hf.co/owner/repo:Q4_K_M"}
    assert {one.place for one in models} == {"Ollama"}
    assert (root / "blobs" / ("sha256-" + "b" * 64)) in {one.path for one in models}


def test_strange_manifests_are_passed_over(home, model, monkeypatch):
    root = home / "ollama"
    monkeypatch.setenv("OLLAMA_MODELS", str(root))
    put(model, home / "secret.gguf")
    put_ollama(model, root, "registry.ollama.ai/library/good/1", "a" * 64)
    for number, content in enumerate(
        ["", "[]", "{}", '{"layers": 1}', '{"layers": [1]}', "[" * 100_000, "\0", '{"layers": []}']
        + [json.dumps({"layers": [{"mediaType": scan.OLLAMA_MODEL, "digest": "sha256:" + digest}]})
           for digest in ("../../secret.gguf", "d" * 64, "A" * 64)]
    ):  # fmt: skip
        (root / "manifests" / f"x{number}").mkdir()
        (root / "manifests" / f"x{number}" / "y").write_text(content)
    assert [one.header.name for one in find_models()] == ["good:1"]


def test_one_file_is_found_once(home, model):
    first = put(model, home / "models" / "a.gguf")
    os.link(first, home / "models" / "b.gguf")
    (home / "models" / "c.gguf").symlink_to(first)
    (home / "more").symlink_to(home / "models")
    assert found(home / "more", first) == [("", home / "more" / "a.gguf")]


def test_links_in_circles_and_deep_folders_come_to_an_end(home, model, monkeypatch):
    path = put(model, home / "models" / "a" / "x.gguf")
    (home / "models" / "a" / "again").symlink_to(home / "models")
    put(model, home / "models" / "/".join("123456") / "deep.gguf")
    assert found() == [("~/models", path)]
    monkeypatch.setattr(scan, "MAX_ENTRIES", 1)
    put(model, home / "models" / "b.gguf")
    assert len(found()) <= 1


def test_what_nobody_wants_to_see(home, model):
    for name in (".hidden.gguf", ".hidden/x.gguf", "x.gguf.incomplete", "readme.md"):
        put(model, home / "models" / name)
    (home / "models" / "broken.gguf").symlink_to(home / "gone")
    for architecture, kind in (("clip", "model"), ("llama", "mmproj")):
        writer = gguf.GGUFWriter(home / "models" / f"{architecture}.gguf", architecture)
        writer.add_type(kind)
        writer.add_tensor("x", np.zeros((4, 32), dtype=np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    assert found() == []


def test_a_model_in_parts_is_one(home):
    (home / "models").mkdir()
    writer = gguf.GGUFWriter(home / "models" / "big.gguf", "llama", split_max_tensors=1)
    for number in range(3):
        writer.add_tensor(f"blk.{number}.weight", np.zeros((4, 32), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    (one,) = find_models()
    assert (one.path.name, one.header.parameters) == ("big-00001-of-00003.gguf", 384)
    (home / "models" / "big-00003-of-00003.gguf").unlink()
    (one,) = find_models()
    assert one.header is None and "big-00003-of-00003.gguf should lie beside it" in one.problem


def test_a_bad_file_is_shown_with_what_is_wrong(home, model):
    put(model, home / "models" / "good.gguf")
    (home / "models" / "bad.gguf").write_text("hello")
    bad, good = find_models()
    assert bad.header is None and "is not a GGUF file" in bad.problem
    assert good.problem is None and good.header.name == "Tiny Koala"


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is unreadable for root")
def test_an_unreadable_folder_is_passed_over(home, model):
    put(model, home / "models" / "a" / "x.gguf")
    (home / "models" / "a").chmod(0)
    assert found() == []


def test_an_unreadable_folder_is_passed_over_whoever_asks(home, model, monkeypatch):
    good, scandir = put(model, home / "models" / "b" / "x.gguf"), os.scandir

    def refuse(folder):
        if Path(folder).name == "a":
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    put(model, home / "models" / "a" / "x.gguf")
    monkeypatch.setattr(scan.os, "scandir", refuse)
    assert found() == [("~/models", good)]


def test_what_is_found_comes_at_once(home, model, monkeypatch):
    for number in range(3):
        put(model, home / "models" / f"{number}.gguf")
    read, really = [], scan.read_header
    monkeypatch.setattr(scan, "read_header", lambda path: read.append(path.name) or really(path))
    next(find_models())
    assert read == ["0.gguf"]


def test_fifty_models_take_less_than_two_seconds(home, tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "big.gguf", "llama")
    writer.add_token_list([f"token{number}" for number in range(150_000)])
    writer.add_token_types([1] * 150_000)
    writer.add_tensor("token_embd.weight", np.zeros((64, 32), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    (home / "models").mkdir()
    for number in range(50):
        shutil.copy(tmp_path / "big.gguf", home / "models" / f"{number:02}.gguf")
    started = time.process_time()
    assert len(found()) == 50
    assert time.process_time() - started < 2
