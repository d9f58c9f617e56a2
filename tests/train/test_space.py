"""A run that the disk cannot hold is refused before it begins."""

import shutil
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datasets_cfg.errors import BadInput
from train.space import check_space

Usage = namedtuple("Usage", "total used free")


def arguments(mixed_precision="bf16", save_strategy="steps", save_total_limit=2):
    return SimpleNamespace(
        mixed_precision=mixed_precision, save_strategy=save_strategy, save_total_limit=save_total_limit
    )


@pytest.fixture
def room(monkeypatch):
    """Set how many bytes are free."""

    def free(size: int) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**15, 0, size))

    return free


@pytest.mark.parametrize(
    ("parameters", "trained", "args", "needed"),
    [
        # Two checkpoints and the third that is being written, of 12 bytes a parameter; the finished model in bf16.
        (1000, 1000, arguments(), 3 * 12_000 + 2000),
        (1000, 1000, arguments(mixed_precision="no"), 3 * 12_000 + 4000),
        (1000, 1000, arguments(save_strategy="no"), 2000),
        (1000, 10, arguments(), 3 * 120 + 40),  # adapters
    ],
)
def test_what_is_needed(parameters, trained, args, needed, room, tmp_path):
    room(needed)
    check_space(tmp_path / "not" / "there", parameters, trained, args)
    assert not (tmp_path / "not").exists()
    room(needed - 1)
    with pytest.raises(BadInput):
        check_space(tmp_path / "not" / "there", parameters, trained, args)


def test_the_sentence_says_how_much(room, tmp_path):
    room(50 * 10**9)
    with pytest.raises(BadInput, match=r"has room for 50.0 GB, and this run needs about 274.0 GB for 3 checkpoints"):
        check_space(tmp_path, 7 * 10**9 + 210_526_316, 7 * 10**9 + 210_526_316, arguments())


def test_checkpoints_that_will_be_replaced_are_room(room, tmp_path):
    room(3 * 12_000)
    with pytest.raises(BadInput):
        check_space(tmp_path, 1000, 1000, arguments())
    (tmp_path / "checkpoint-5").mkdir()
    (tmp_path / "checkpoint-5" / "optimizer.pt").write_bytes(bytes(2000))
    check_space(tmp_path, 1000, 1000, arguments())


@given(parameters=st.integers(1, 10**12), share=st.floats(0, 1))
def test_adapters_never_need_more(parameters, share):
    trained = int(parameters * share)

    def fits(trained: int, free: int) -> bool:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(shutil, "disk_usage", lambda path: Usage(10**15, 0, free))
            try:
                check_space(Path("nowhere"), parameters, trained, arguments("no"))
            except BadInput:
                return False
            return True

    free = 40 * parameters
    assert fits(trained, free) or not fits(parameters, free)
