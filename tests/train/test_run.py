"""The output folder of a run."""

import pytest

from datasets_cfg.errors import BadInput
from train.run import (
    CARD,
    UNFINISHED,
    claim,
    finish,
    is_whole,
    remove_older_checkpoints,
    resume_point,
    seal,
)

IDENTITY = {"base": "b", "mixture": "m", "seed": 1}


def checkpoint(out, step, *, whole=True):
    folder = out / f"checkpoint-{step}"
    folder.mkdir()
    (folder / "model.safetensors").write_text("weights")
    (folder / "optimizer").mkdir()
    (folder / "optimizer" / "part").write_text("state")
    if whole:
        seal(folder)
    return folder


def test_a_run_resumes_from_its_last_checkpoint(tmp_path):
    out = tmp_path / "deep" / "out"
    assert resume_point(out, IDENTITY, overwrite=False) is None
    assert not out.parent.exists()
    claim(out, IDENTITY)
    assert resume_point(out, IDENTITY, overwrite=False) is None
    checkpoint(out, 9)
    last = checkpoint(out, 10)
    claim(out, IDENTITY)
    assert resume_point(out, IDENTITY, overwrite=False) == last


def test_a_torn_checkpoint_is_never_the_newest(tmp_path):
    claim(tmp_path, IDENTITY)
    first, second = checkpoint(tmp_path, 2), checkpoint(tmp_path, 4)
    unsealed = checkpoint(tmp_path, 6, whole=False)
    assert resume_point(tmp_path, IDENTITY, overwrite=False) == second
    (second / "optimizer" / "part").write_text("stat")  # cut short after it was sealed
    assert not is_whole(second)
    assert resume_point(tmp_path, IDENTITY, overwrite=False) == first
    (first / "model.safetensors").unlink()
    assert resume_point(tmp_path, IDENTITY, overwrite=False) is None
    claim(tmp_path, IDENTITY)
    assert not any(folder.exists() for folder in (first, second, unsealed))


def test_older_checkpoints_go_and_torn_ones_do_not_count(tmp_path):
    whole = [checkpoint(tmp_path, step) for step in (1, 2, 10, 9)]
    torn = checkpoint(tmp_path, 11, whole=False)
    remove_older_checkpoints(tmp_path, 2, spare="elsewhere/checkpoint-1")
    assert [folder.exists() for folder in whole] == [True, False, True, True]
    assert torn.exists()


def test_another_run_is_not_resumed(tmp_path):
    claim(tmp_path, IDENTITY)
    checkpoint(tmp_path, 1)
    other = {**IDENTITY, "mixture": "n"}
    with pytest.raises(BadInput, match=r"another mixture \(m there, n here\)"):
        resume_point(tmp_path, other, overwrite=False)
    assert resume_point(tmp_path, other, overwrite=True) is None
    claim(tmp_path, other)
    assert [path.name for path in tmp_path.iterdir()] == [UNFINISHED]


def test_a_folder_in_use_is_refused(tmp_path):
    (tmp_path / "mine").write_text("")
    with pytest.raises(BadInput, match="not empty"):
        resume_point(tmp_path, IDENTITY, overwrite=False)
    with pytest.raises(BadInput, match="is a file"):
        resume_point(tmp_path / "mine", IDENTITY, overwrite=True)
    (tmp_path / CARD).write_text("{}")
    with pytest.raises(BadInput, match="finished model"):
        resume_point(tmp_path, IDENTITY, overwrite=False)


def test_a_finished_model_replaces_another_whole(tmp_path):
    for name in ("config.json", "model-00001-of-00002.safetensors", "model.safetensors.index.json"):
        (tmp_path / name).write_text("old")
    claim(tmp_path, IDENTITY)
    staged = tmp_path / ".saving"
    staged.mkdir()
    for name in ("config.json", "model.safetensors", "training_args.bin"):
        (staged / name).write_text("new")
    finish(tmp_path, staged, {"seed": 1})
    found = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert found.pop(CARD).startswith("{")
    assert found == {"config.json": "new", "model.safetensors": "new"}


def test_a_damaged_marker_is_a_sentence(tmp_path):
    (tmp_path / UNFINISHED).write_text('{"seed": ')
    with pytest.raises(BadInput, match=r"unfinished\.json is not valid JSON .* remove that file"):
        resume_point(tmp_path, IDENTITY, overwrite=False)
