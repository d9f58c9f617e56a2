"""The bytes at the beginning of a GGUF: numbers, texts and lists, with every length checked before it is believed.

The file may be cut short or hostile. What is long (a vocabulary) is stepped over.
"""

import struct
from typing import Any, BinaryIO

STRING, ARRAY = 8, 9
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}

# Far above anything real, far below what would exhaust the memory or the patience of the reader.
MAX_METADATA_PAIRS = 100_000
MAX_KEY_BYTES = 65_535
MAX_STRING_BYTES = 16 * 2**20
MAX_ARRAY_DEPTH = 4
KEPT_NUMBERS = 1024
READ_AHEAD = 2**20


class Damaged(Exception):
    """The header contradicts itself; the message says where."""


class Source:
    """The first part of a file, read ahead as far as it is asked for.

    Raises (from every method):
        Damaged: the file ends before, or a length is absurd.
    """

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file, self.size = file, size
        self.buffer = bytearray()
        self.start = 0  # where in the file the buffer begins
        self.position = 0  # of the next byte, counted from the start of the file

    def require(self, count: int) -> int:
        """Make sure that `count` bytes lie in the buffer; return where they begin in it."""
        offset = self.position - self.start
        missing = offset + count - len(self.buffer)
        if missing > 0:
            if self.position + count > self.size:
                raise Damaged("it ends in the middle of its header")
            del self.buffer[:offset]
            self.start, offset = self.position, 0
            self.buffer += self.file.read(max(count - len(self.buffer), READ_AHEAD))
            if len(self.buffer) < count:
                raise Damaged("it ends in the middle of its header")
        return offset

    def scalar(self, code: str) -> Any:
        """Return the next number of this type, in the letters of `struct`."""
        width = struct.calcsize("<" + code)
        offset = self.require(width)
        self.position += width
        return struct.unpack_from("<" + code, self.buffer, offset)[0]

    def string(self, limit: int) -> str:
        """Return the next text, of at most `limit` bytes."""
        length = self.scalar("Q")
        if length > limit:
            raise Damaged(f"it claims a text of {length:,} bytes")
        offset = self.require(length)
        self.position += length
        return self.buffer[offset : offset + length].decode("utf-8", errors="replace")

    def skip(self, count: int) -> None:
        """Step over bytes."""
        if count > self.size - self.position:
            raise Damaged("it ends in the middle of its header")
        self.position += count
        if self.position > self.start + len(self.buffer):
            self.file.seek(self.position)
            self.buffer.clear()
            self.start = self.position

    def skip_strings(self, count: int) -> None:
        """Step over texts."""
        unpack = struct.Struct("<Q").unpack_from
        if count > (self.size - self.position) // 8:
            raise Damaged(f"it claims a list of {count:,} texts")
        while count:
            offset = self.require(8)
            buffer, last = self.buffer, len(self.buffer) - 8
            # A vocabulary has hundreds of thousands of texts, so this loop does nothing but step.
            for done in range(count):  # noqa: B007
                if offset > last:
                    break
                offset += 8 + unpack(buffer, offset)[0]
            else:
                done = count
            count -= done
            self.skip(self.start + offset - self.position)


def read_value(source: Source, key: str, kind: int, metadata: dict[str, Any]) -> None:
    """Read a value of this kind into `metadata`; see `GGUFHeader.metadata` for lists.

    Raises:
        Damaged: the value contradicts the file.
    """
    if kind in SCALARS:
        metadata[key] = source.scalar(SCALARS[kind])
    elif kind == STRING:
        metadata[key] = source.string(MAX_STRING_BYTES)
    elif kind == ARRAY:
        item, count = source.scalar("I"), source.scalar("Q")
        if item in SCALARS and count <= KEPT_NUMBERS:
            metadata[key] = [source.scalar(SCALARS[item]) for _ in range(count)]
        else:
            _skip_items(source, item, count, MAX_ARRAY_DEPTH)
        metadata[f"{key}.length"] = count
    else:
        raise Damaged(f"its entry {key[:80]!r} is of an unknown type {kind}")


def _skip_items(source: Source, kind: int, count: int, depth: int) -> None:
    if kind in SCALARS:
        source.skip(count * struct.calcsize("<" + SCALARS[kind]))
    elif kind == STRING:
        source.skip_strings(count)
    elif kind == ARRAY and depth > 1 and count <= MAX_METADATA_PAIRS:
        for _ in range(count):
            _skip_items(source, source.scalar("I"), source.scalar("Q"), depth - 1)
    else:
        raise Damaged(f"it has a list of an unknown type {kind}")
