"""What a model has read, on disk: after a restart a long conversation is loaded instead of being read again.

A file holds the token ids of one sequence, where in them replies stand as they were sampled, and the keys and values
that llama.cpp computed for them:

    8 bytes    MAGIC
    4 bytes    length of the description
    4 bytes    CRC-32 of the description and the ids
    4 bytes    CRC-32 of the keys and values
    …          the description, as JSON: {"key", "tokens", "state_bytes", "replies"}
    …          the ids, 4 bytes each
    …          the keys and values

Numbers are little-endian. Several processes may use one folder at once: a file appears whole, under its final name,
and one that has vanished was not needed any more. Whatever is damaged, cut short, or not ours is removed.
"""

import json
import mmap
import os
import secrets
import shutil
import struct
import threading
import time
import zlib
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from .prompt import ReplyKey, Span

MAGIC = b"KOALASQ1"
FIXED = struct.Struct("<8sIII")
SUFFIX, UNFINISHED = ".sequence", ".unfinished"
MAX_FILES = 512
DISK_SHARE = 4  # no more than a quarter of the room that the disk would have without the files
ABANDONED_SECONDS = 600.0


@dataclass(frozen=True)
class SavedSequence:
    """A sequence on disk: its token ids, the replies in them, and where in the file its keys and values are."""

    path: Path
    file_bytes: int
    ids: array
    replies: list[Span]
    state_start: int
    state_crc: int


class Damaged(Exception):
    """The file is not what it should be."""


class SequenceCache:
    """The saved sequences of one model in a folder that it may share with others.

    All files there together take at most `limit` bytes and a quarter of the disk's free room; those used longest ago
    make way. `model` says what a sequence depends on; only files saved with the very same are read.
    """

    def __init__(self, folder: str | Path, limit: int, model: Mapping[str, Any]) -> None:
        self._folder, self._limit = Path(folder), limit
        self._model = sha256(json.dumps(model, sort_keys=True).encode()).hexdigest()
        self._known: dict[str, SavedSequence] = {}
        self._saving: threading.Thread | None = None

    def look(self) -> list[SavedSequence]:
        """Look which sequences there are; return those that were not there the last time."""
        names, new = set(), []
        for entry in self._files():
            if not (entry.name.startswith(self._model[:16]) and entry.name.endswith(SUFFIX)):
                continue
            names.add(entry.name)
            if entry.name not in self._known:
                try:
                    new.append(_read(Path(entry.path), self._model))
                    self._known[entry.name] = new[-1]
                except (Damaged, ValueError, TypeError, KeyError):
                    _remove(Path(entry.path))
                except OSError:
                    pass
        self._known = {name: saved for name, saved in self._known.items() if name in names}
        return new

    def best(self, ids: Sequence[int], *, whole: bool = False) -> tuple[SavedSequence | None, int]:
        """Return the sequence that shares the most ids with the beginning of `ids`, and how many.

        With `whole` only sequences count that `ids` begin with as a whole.
        """
        wanted, found, most = array("i", ids), None, 0
        for saved in self._known.values():
            shared = shared_beginning(saved.ids, wanted)
            if shared > most and (not whole or shared == len(saved.ids)):
                found, most = saved, shared
        return found, most

    @contextmanager
    def state(self, saved: SavedSequence) -> Iterator[memoryview]:
        """Give the keys and values of the sequence, and note that it was used.

        Raises:
            Damaged: they are not what was saved; the file is removed.
            OSError: the file cannot be read, or is gone.
        """
        with saved.path.open("rb") as file:
            with suppress(OSError):
                os.utime(saved.path)
            if os.fstat(file.fileno()).st_size != saved.file_bytes:
                self.drop(saved)
                raise Damaged
            with (
                mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as mapped,
                memoryview(mapped) as whole,
                whole[saved.state_start :] as state,
            ):
                if zlib.crc32(state) != saved.state_crc:
                    self.drop(saved)
                    raise Damaged
                yield state

    def drop(self, saved: SavedSequence) -> None:
        """Remove a sequence that is of no use."""
        self._known.pop(saved.path.name, None)
        _remove(saved.path)

    def save(
        self, ids: Sequence[int], replies: Sequence[Span], state_bytes: int, copy: Callable[[memoryview], int]
    ) -> bool:
        """Save a sequence, for which `copy` writes `state_bytes` bytes of keys and values; it returns their number.

        Only the copying is done when this returns; the rest goes on in the background. Saved beginnings of the same
        sequence are removed then. Return False where there is no room or the folder cannot be written to.
        """
        self.finish()
        kept = array("i", ids)
        description = json.dumps(
            {"key": self._model, "tokens": len(kept), "state_bytes": state_bytes, "replies": replies}
        ).encode()
        state_start = FIXED.size + len(description) + len(kept) * kept.itemsize
        if not self._make_room(state_start + state_bytes, kept):
            return False
        path = self._folder / f"{self._model[:16]}-{secrets.token_hex(8)}{UNFINISHED}"
        try:
            mapped = _create(path, state_start + state_bytes)
        except OSError:
            _remove(path)
            return False
        with memoryview(mapped) as whole, whole[state_start:] as state:
            copied = copy(state)
        if copied != state_bytes:
            mapped.close()
            _remove(path)
            return False
        self._saving = threading.Thread(target=self._complete, args=(path, mapped, description, kept), daemon=True)
        self._saving.start()
        return True

    def finish(self) -> None:
        """Wait until what was saved is on disk."""
        if self._saving is not None:
            self._saving.join()
            self._saving = None

    def _complete(self, path: Path, mapped: mmap.mmap, description: bytes, ids: array) -> None:
        head = description + ids.tobytes()
        state_start = FIXED.size + len(head)
        with memoryview(mapped) as whole, whole[state_start:] as state:
            state_crc = zlib.crc32(state)
        mapped[:state_start] = FIXED.pack(MAGIC, len(description), zlib.crc32(head), state_crc) + head
        mapped.close()
        try:
            # No fsync: should the machine fail now, the checksum tells.
            path.replace(path.with_suffix(SUFFIX))
        except OSError:
            _remove(path)
            return
        for saved in self._beginnings(ids):
            _remove(saved.path)

    def _beginnings(self, ids: array) -> list[SavedSequence]:
        return [saved for saved in list(self._known.values()) if shared_beginning(saved.ids, ids) == len(saved.ids)]

    def _make_room(self, size: int, ids: array) -> bool:
        """Remove files until one of this size has room; False where it never has."""
        with suppress(OSError):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        files = []
        for entry in self._files():
            with suppress(OSError):
                status = entry.stat()
                if entry.name.endswith(UNFINISHED) and time.time() - status.st_mtime > ABANDONED_SECONDS:
                    _remove(Path(entry.path))
                else:
                    files.append((status.st_mtime, status.st_size, entry))
        try:
            free = shutil.disk_usage(self._folder).free
        except OSError:
            return False
        taken = sum(size for _, size, _ in files)
        limit = min(self._limit, (free + taken) // DISK_SHARE)
        if size > limit:
            return False
        superseded = {saved.path.name for saved in self._beginnings(ids)}
        files = [file for file in files if file[2].name.endswith(SUFFIX)]
        files.sort(key=lambda file: (file[2].name not in superseded, file[0]))
        count = len(files)
        for _, file_size, entry in files:
            if taken + size <= limit and count < MAX_FILES:
                break
            _remove(Path(entry.path))
            taken, count = taken - file_size, count - 1
        return taken + size <= limit

    def _files(self) -> list[os.DirEntry]:
        try:
            with os.scandir(self._folder) as entries:
                return [entry for entry in entries if entry.name.endswith((SUFFIX, UNFINISHED))]
        except OSError:
            return []


def shared_beginning(one: array, other: array) -> int:
    """Return how many ids at the beginning of both are the same."""
    width, low, high = one.itemsize, 0, min(len(one), len(other))
    left, right = memoryview(one).cast("B"), memoryview(other).cast("B")
    if left[: high * width] == right[: high * width]:
        return high
    while high - low > 1:
        middle = (low + high) // 2
        part = slice(low * width, middle * width)
        low, high = (middle, high) if left[part] == right[part] else (low, middle)
    return low


def _create(path: Path, size: int) -> mmap.mmap:
    """Return a new file of this size in memory. Its room on the disk is taken: writing to it cannot fail."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(descriptor, 0, size)
        else:
            os.ftruncate(descriptor, size)
        return mmap.mmap(descriptor, size)
    finally:
        os.close(descriptor)


def _read(path: Path, model: str) -> SavedSequence:
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        fixed = file.read(FIXED.size)
        if len(fixed) != FIXED.size:
            raise Damaged
        magic, length, head_crc, state_crc = FIXED.unpack(fixed)
        if magic != MAGIC or length > size:
            raise Damaged
        text = file.read(length)
        description = json.loads(text)
        tokens = description["tokens"]
        if not isinstance(tokens, int) or not 0 < tokens <= size // 4:
            raise Damaged
        ids = array("i")
        raw = file.read(tokens * ids.itemsize)
    state_start = FIXED.size + length + len(raw)
    whole = state_start + description["state_bytes"] == size and len(raw) == tokens * ids.itemsize
    if not whole or zlib.crc32(text + raw) != head_crc or description["key"] != model:
        raise Damaged
    ids.frombytes(raw)
    replies = [Span(ReplyKey(*key), start, length) for key, start, length in description["replies"]]
    if any(not 0 <= span.start <= span.start + span.length <= tokens for span in replies):
        raise Damaged
    return SavedSequence(path, size, ids, replies, state_start, state_crc)


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink()
