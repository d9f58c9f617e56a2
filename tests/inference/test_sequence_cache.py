import multiprocessing
import os
import shutil
import stat
import time
from array import array
from collections import namedtuple
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inference import sequence_cache
from inference.prompt import ReplyKey, Span
from inference.sequence_cache import Damaged, SequenceCache, shared_beginning

MODEL = {"fingerprint": "abc", "n_ctx": 2048}
REPLY = Span(ReplyKey("before", 5, "text"), 2, 3)
STATE = bytes(range(256)) * 40


def writing(state: bytes):
    def copy(target: memoryview) -> int:
        target[:] = state
        return len(state)

    return copy


def save(cache: SequenceCache, ids, state: bytes = STATE, replies=()) -> bool:
    saved = cache.save(ids, replies, len(state), writing(state))
    cache.finish()
    cache.look()
    return saved


def restore(cache: SequenceCache, ids) -> tuple[bytes, int] | None:
    saved, shared = cache.best(ids)
    if saved is None:
        return None
    with cache.state(saved) as state:
        return bytes(state), shared


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def cache(tmp_path) -> SequenceCache:
    return SequenceCache(tmp_path / "cache", 10**9, MODEL)


def test_what_was_saved_is_there_for_the_next_process(cache, tmp_path):
    assert save(cache, range(100), replies=[REPLY])
    later = SequenceCache(tmp_path / "cache", 10**9, MODEL)
    [saved] = later.look()
    assert list(saved.ids) == list(range(100)) and saved.replies == [REPLY]
    assert restore(later, [*range(60), 1, 2]) == (STATE, 60)
    assert later.look() == [], "it is no longer new"


def test_the_files_are_for_nobody_else(cache, tmp_path):
    save(cache, range(100))
    [path] = (tmp_path / "cache").iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_the_best_is_the_one_with_the_longest_common_beginning(cache):
    for ids in ([1, 2, 3, 4], [1, 2, 9, 9, 9], [5]):
        save(cache, ids, state=bytes(ids))
    assert restore(cache, [1, 2, 9, 8]) == (bytes([1, 2, 9, 9, 9]), 3)
    assert cache.best([1, 2, 9, 8], whole=True) == (None, 0)
    assert cache.best([5, 6], whole=True)[1] == 1
    assert restore(cache, [7]) is None


def test_another_model_or_another_context_sees_nothing(cache, tmp_path):
    save(cache, range(100))
    for other in ({**MODEL, "n_ctx": 4096}, {**MODEL, "fingerprint": "abd"}):
        assert SequenceCache(tmp_path / "cache", 10**9, other).look() == []
    assert len(files(tmp_path / "cache")) == 1, "nor does it remove it"


def test_a_longer_sequence_replaces_its_beginning_and_no_other(cache, tmp_path):
    save(cache, range(100))
    save(cache, [*range(50), 7])
    save(cache, range(150))
    kept = sorted(len(saved.ids) for saved in SequenceCache(tmp_path / "cache", 10**9, MODEL).look())
    assert kept == [51, 150]


def test_those_used_longest_ago_make_way(tmp_path):
    size = 100 * 4 + len(STATE)
    cache = SequenceCache(tmp_path, 4 * size, MODEL)
    for number in range(3):
        save(cache, [number] * 100)
        [path] = [saved.path for saved in cache._known.values() if saved.ids[0] == number]
        os.utime(path, (number + 1, number + 1))
    assert restore(cache, [0] * 100)
    save(cache, [3] * 100)
    assert sorted(saved.ids[0] for saved in cache._known.values()) == [0, 2, 3]
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 4 * size


def test_what_is_larger_than_all_the_room_is_not_saved_and_pushes_nothing_out(tmp_path):
    cache = SequenceCache(tmp_path, 2 * len(STATE), MODEL)
    save(cache, [1])
    assert not save(cache, [2], state=STATE * 3)
    assert restore(cache, [1]) == (STATE, 1)


def test_no_more_than_a_quarter_of_the_free_disk(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    cache = SequenceCache(tmp_path, 10**9, MODEL)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(10**9, 0, 4 * 11_000))
    assert save(cache, [1])
    assert not save(cache, [2], state=STATE * 2)
    # What is there counts as free: it can be removed.
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(10**9, 0, 3 * 11_000))
    assert save(cache, [3])
    assert [saved.ids[0] for saved in cache._known.values()] == [3]


def test_the_number_of_files_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(sequence_cache, "MAX_FILES", 3)
    cache = SequenceCache(tmp_path, 10**9, MODEL)
    for number in range(6):
        save(cache, [number])
    assert len(files(tmp_path)) == 3


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_damaged_file_is_removed_and_never_restored(tmp_path, data):
    folder = tmp_path / str(time.monotonic_ns())
    cache = SequenceCache(folder, 10**9, MODEL)
    save(cache, range(100), replies=[REPLY])
    [path] = folder.iterdir()
    raw = bytearray(path.read_bytes())
    kind = data.draw(st.sampled_from(["cut", "flip", "longer", "empty"]))
    if kind == "cut":
        del raw[data.draw(st.integers(0, len(raw) - 1)) :]
    elif kind == "flip":
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    elif kind == "longer":
        raw += b"more"
    else:
        raw = bytearray()
    path.write_bytes(raw)
    later = SequenceCache(folder, 10**9, MODEL)
    later.look()
    try:
        assert restore(later, range(100)) is None
    except Damaged:
        assert later.best(range(100)) == (None, 0)
    assert files(folder) == []


def test_a_file_that_changes_after_it_was_seen_is_not_restored(cache, tmp_path):
    save(cache, range(100))
    [path] = (tmp_path / "cache").iterdir()
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(Damaged):
        restore(cache, range(100))
    assert files(tmp_path / "cache") == []


def test_a_file_that_vanishes_is_no_trouble(cache, tmp_path):
    save(cache, range(100))
    [path] = (tmp_path / "cache").iterdir()
    path.unlink()
    with pytest.raises(OSError):
        restore(cache, range(100))
    assert cache.look() == [] and cache.best(range(100)) == (None, 0)


def test_foreign_files_stay(cache, tmp_path):
    save(cache, range(100))
    (tmp_path / "cache" / "notes.txt").write_text("mine")
    save(cache, range(200))
    assert "notes.txt" in files(tmp_path / "cache")


def test_what_was_never_finished_goes_after_a_while(cache, tmp_path):
    save(cache, [1])
    old, new = (tmp_path / "cache" / f"{'0' * 16}-{name}.unfinished" for name in ("old", "new"))
    old.write_bytes(b"x" * 100)
    new.write_bytes(b"x" * 100)
    os.utime(old, (1, 1))
    save(cache, [2])
    assert not old.exists() and new.exists()


def test_a_folder_that_cannot_be_written_to_saves_nothing(tmp_path):
    (tmp_path / "file").write_text("in the way")
    cache = SequenceCache(tmp_path / "file" / "cache", 10**9, MODEL)
    assert not save(cache, range(100))
    assert cache.best(range(100)) == (None, 0)


def test_a_copy_that_fails_leaves_nothing(cache, tmp_path):
    assert not cache.save(range(100), [], 1000, lambda target: 0)
    assert files(tmp_path / "cache") == []


def _use(folder: str, number: int) -> None:
    cache = SequenceCache(folder, 12 * len(STATE), MODEL)
    for turn in range(40):
        ids = [number, *range(turn + 1)]
        save(cache, ids, state=bytes([number]) * len(STATE))
        saved, _ = cache.best([(number + 1) % 3, *range(turn + 1)])
        if saved is not None:
            try:
                with cache.state(saved) as state:
                    assert bytes(state) == bytes([saved.ids[0]]) * len(STATE)
            except OSError:
                pass  # the other one has removed it


def test_several_processes_share_a_folder(tmp_path):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_use, args=(str(tmp_path), number)) for number in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert all(name.endswith(".sequence") for name in files(tmp_path))
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 12 * len(STATE)


@given(st.lists(st.integers(0, 2), max_size=40), st.lists(st.integers(0, 2), max_size=40))
def test_the_shared_beginning(one, other):
    shared = shared_beginning(array("i", one), array("i", other))
    assert one[:shared] == other[:shared]
    assert shared == min(len(one), len(other)) or one[shared] != other[shared]
