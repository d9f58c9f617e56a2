"""The folder in which files are made: what is in its way, and places that cannot be written."""

import sys
from pathlib import Path

import pytest

from convert.work_folder import work_folder
from datasets_cfg.errors import BadInput

NAME = ".convert.partial"


@pytest.mark.parametrize("kind", ["folder", "file", "link", "dangling link"])
def test_what_has_the_name_of_the_work_folder_is_removed(tmp_path, kind):
    out, other = tmp_path / "out", tmp_path / "other"
    out.mkdir()
    other.mkdir()
    (other / "mine.txt").write_text("mine")
    if kind == "folder":
        (out / NAME).mkdir()
        (out / NAME / "rest").write_text("")
    elif kind == "file":
        (out / NAME).write_text("")
    else:
        (out / NAME).symlink_to(other if kind == "link" else tmp_path / "nowhere")
    with work_folder(out, overwrite=False) as work:
        assert work.is_dir() and not work.is_symlink() and not any(work.iterdir())
    assert not any(out.iterdir())
    assert (other / "mine.txt").read_text() == "mine"


@pytest.mark.skipif(sys.platform != "linux", reason="Linux's /proc")
@pytest.mark.parametrize("out", ["/proc/koala", "{tmp}/file/below", "{tmp}/" + "x" * 300])
def test_a_place_that_cannot_be_written_is_a_sentence(tmp_path, out):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(BadInput, match=r"^/.* cannot be used for the output \(.+\); choose another folder$"),
        work_folder(Path(out.format(tmp=tmp_path)), overwrite=False),
    ):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_one_conversion_at_a_time(tmp_path):
    out = tmp_path / "out"
    with work_folder(out, overwrite=False) as work:
        with pytest.raises(BadInput, match="another conversion is writing"), work_folder(out, overwrite=True):
            pass
        assert work.is_dir()
    assert not out.exists()


def test_a_system_without_locks_is_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with pytest.raises(BadInput, match="on Windows, convert inside WSL"), work_folder(tmp_path, overwrite=False):
        pass
