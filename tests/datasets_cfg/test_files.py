"""Folders appear whole or not at all."""

import os
from pathlib import Path

import pytest

from datasets_cfg.errors import BadInput
from datasets_cfg.files import staged_folder


def test_a_folder_appears_when_it_is_whole(tmp_path):
    out = tmp_path / "deep" / "out"
    with staged_folder(out) as folder:
        (folder / "a").write_text("1")
        assert not out.exists()
    assert (out / "a").read_text() == "1"
    assert list(out.parent.iterdir()) == [out]


def test_a_failure_leaves_what_was_there(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "old").write_text("1")
    with pytest.raises(ZeroDivisionError), staged_folder(out, overwrite=True) as folder:
        (folder / "new").write_text("2")
        raise ZeroDivisionError
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (out / "old").read_text() == "1"


def test_a_folder_in_use_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="is a file"), staged_folder(tmp_path / "file"):
        pass
    with pytest.raises(BadInput, match="not empty"), staged_folder(tmp_path):
        pass


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_what_is_neither_file_nor_folder_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("pipe", "link"):
        with pytest.raises(BadInput, match="is a file"), staged_folder(tmp_path / name, overwrite=True):
            pass
    assert (tmp_path / "pipe").is_fifo() and (tmp_path / "link").is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "pipe"]


@pytest.mark.parametrize("out", [".", "..", "../here"])
def test_the_folder_where_one_works_is_not_replaced(tmp_path, monkeypatch, out):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(BadInput, match="is or holds the current one"), staged_folder(Path(out), overwrite=True):
        pass
    assert [path.name for path in tmp_path.rglob("*")] == ["here"]


def test_a_place_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="file cannot be used for the output"), staged_folder(tmp_path / "file" / "out"):
        pass


def test_a_link_in_the_way_is_removed_and_not_followed(tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / ".out.partial").symlink_to(tmp_path / "other")
    with staged_folder(tmp_path / "out") as folder:
        (folder / "a").write_text("1")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "out"]
    assert not any((tmp_path / "other").iterdir())


def test_a_run_killed_between_the_renames_loses_nothing(tmp_path):
    out = tmp_path / "out"
    (tmp_path / ".out.replaced").mkdir()
    (tmp_path / ".out.replaced" / "old").write_text("1")
    (tmp_path / ".out.partial").mkdir()
    with pytest.raises(BadInput, match="not empty"), staged_folder(out):
        pass
    assert (out / "old").read_text() == "1"
