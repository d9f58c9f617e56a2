"""The rows of an SQLite file, read from its pages without SQLite, for a file that SQLite refuses.

Only the pages that hold rows of tables are looked at ("table leaves"), wherever they lie; what points at them may be
destroyed. The format is https://www.sqlite.org/fileformat2.html. Every length is checked before it is believed.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MAGIC = b"SQLite format 3\x00"
PAGE_SIZE = 4096  # what SQLite chooses, where the file does not say any more
FILE_HEADER, LOG_HEADER, FRAME_HEADER = 100, 32, 24
TABLE_LEAF = 0x0D
LEAF_HEADER = 8
MAX_COLUMNS = 100
INTEGER_BYTES = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}


def rows(path: Path) -> Iterator[tuple]:
    """Yield every row that is found, as its number and its columns (of which the number, as a column, is None).

    Of a row whose end is lost, the columns that are lost are None, and a text or blob may be cut. Rows of pages that
    SQLite has put aside for other use are left out, as far as that can be told.
    """
    file = _File(path)
    free = file.free_pages()
    for number in range(1, file.pages + 1):
        if number not in free:
            yield from _leaf_rows(file, number)


class _File:
    """The pages of a file, numbered from 1, the newer ones in its write-ahead log before those in the file itself."""

    def __init__(self, path: Path) -> None:
        self._content = path.read_bytes()
        log = path.with_name(path.name + "-wal")
        self._log = log.read_bytes() if log.exists() else b""
        self._sound = self._content.startswith(MAGIC)
        self.page_size = self._page_size()
        self.usable = self.page_size - (self._content[20] if self._sound else 0)
        self._newer = self._committed()
        self.pages = max(-(-len(self._content) // self.page_size), *self._newer, 0)

    def page(self, number: int) -> bytes:
        """The page's content, shorter where the file ends, empty where there is no such page."""
        if number in self._newer:
            return self._log[self._newer[number] :][: self.page_size]
        return self._content[(number - 1) * self.page_size : number * self.page_size] if number > 0 else b""

    def free_pages(self) -> set[int]:
        """The numbers of the pages that are not in use."""
        free: set[int] = set()
        first = self.page(1)
        trunk = _number(first, 32, 4) if first.startswith(MAGIC) else 0
        while 0 < trunk <= self.pages and trunk not in free:
            free.add(trunk)
            page = self.page(trunk)
            leaves = min(_number(page, 4, 4), self.usable // 4 - 2)
            free.update(_number(page, 8 + 4 * place, 4) for place in range(leaves))
            trunk = _number(page, 0, 4)
        return free

    def _page_size(self) -> int:
        for content, offset, size in ((self._content if self._sound else b"", 16, 2), (self._log, 8, 4)):
            value = _number(content, offset, size)
            value = 65536 if value == 1 else value
            if 512 <= value <= 65536 and value & (value - 1) == 0:
                return value
        return PAGE_SIZE

    def _committed(self) -> dict[int, int]:
        """Where in the log the newest version of each page begins that a finished transaction wrote."""
        committed: dict[int, int] = {}
        pending: dict[int, int] = {}
        salts = self._log[16:24]
        for offset in range(
            LOG_HEADER, len(self._log) - FRAME_HEADER - self.page_size + 1, FRAME_HEADER + self.page_size
        ):
            number, pages, frame_salts = struct.unpack_from(">II8s", self._log, offset)
            if frame_salts != salts:
                break
            pending[number] = offset + FRAME_HEADER
            if pages:
                committed.update(pending)
                pending.clear()
        return committed


def _leaf_rows(file: _File, number: int) -> Iterator[tuple]:
    page = file.page(number)
    begin = FILE_HEADER if number == 1 else 0
    if _number(page, begin, 1) != TABLE_LEAF:
        return
    cells = min(_number(page, begin + 3, 2), len(page) // 2)
    for place in range(cells):
        offset = _number(page, begin + LEAF_HEADER + 2 * place, 2)
        if LEAF_HEADER + begin + 2 * cells <= offset < len(page) and (row := _row(file, page, offset)):
            yield row


def _row(file: _File, page: bytes, offset: int) -> tuple | None:
    size, offset = _varint(page, offset)
    key, offset = _varint(page, offset)
    if key >= 2**63:
        key -= 2**64
    most = file.usable - 35
    local = size
    if size > most:
        least = (file.usable - 12) * 32 // 255 - 23
        local = least + (size - least) % (file.usable - 4)
        local = local if local <= most else least
    payload = page[offset : offset + local]
    if size > local:
        payload += _overflow(file, _number(page, offset + local, 4), size - local)
    values = _values(payload)
    return (key, *values) if values else None


def _overflow(file: _File, number: int, size: int) -> bytes:
    parts: list[bytes] = []
    seen: set[int] = set()
    while size > 0 and 0 < number <= file.pages and number not in seen:
        seen.add(number)
        page = file.page(number)
        parts.append(page[4 : 4 + min(size, file.usable - 4)])
        size -= len(parts[-1])
        number = _number(page, 0, 4)
    return b"".join(parts)


def _values(payload: bytes) -> list[Any]:
    """The columns of a record; none where it is no record."""
    end, offset = _varint(payload, 0)
    kinds: list[int] = []
    while offset < min(end, len(payload)) and len(kinds) <= MAX_COLUMNS:
        kind, offset = _varint(payload, offset)
        kinds.append(kind)
    if offset != end or len(kinds) > MAX_COLUMNS:
        return []
    values: list[Any] = []
    for kind in kinds:
        size = INTEGER_BYTES.get(kind, 8 if kind == 7 else (kind - 12) // 2 if kind >= 12 else 0)
        values.append(_value(kind, payload[offset : offset + size], size))
        offset += size
    return values


def _value(kind: int, data: bytes, size: int) -> Any:
    if kind in (8, 9):
        return kind - 8
    if kind >= 12:
        return data.decode("utf-8", "replace") if kind % 2 else data
    if len(data) < size or not size:
        return None
    return struct.unpack(">d", data)[0] if kind == 7 else int.from_bytes(data, "big", signed=True)


def _varint(data: bytes, offset: int) -> tuple[int, int]:
    """The number at the offset, of one to nine bytes, and the offset after it; what is beyond the end counts as 0."""
    value = 0
    for place in range(offset, offset + 8):
        byte = data[place] if place < len(data) else 0
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, place + 1
    return value << 8 | (data[offset + 8] if offset + 8 < len(data) else 0), offset + 9


def _number(data: bytes, offset: int, size: int) -> int:
    return int.from_bytes(data[offset : offset + size], "big")
