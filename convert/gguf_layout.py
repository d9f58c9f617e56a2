"""Where everything lies in a GGUF: metadata, tensor infos and tensors as byte ranges, read in milliseconds.

The vocabulary is stepped over and no tensor is read. Every length is checked before it is believed.
"""

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from mmap import ACCESS_READ, mmap
from pathlib import Path

from datasets_cfg.errors import BadInput

MAGIC = b"GGUF"
VERSION = 3
DEFAULT_ALIGNMENT = 32

_UINT32, _STRING, _ARRAY = 4, 8, 9
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", _UINT32: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_MAX_DIMENSIONS = 4
"""ggml's own limit."""


@dataclass(frozen=True)
class TensorInfo:
    """One entry of the table of tensors.

    Attributes:
        name: the tensor's name.
        type: ggml's number of its type.
        shape: elements in each dimension, the fastest first, as the file has it.
        offset: of its first byte, from the start of the data.
        size: bytes, without the padding behind it.
    """

    name: str
    type: int
    shape: tuple[int, ...]
    offset: int
    size: int


@dataclass(frozen=True)
class Layout:
    """The structure of a GGUF; positions are bytes from the start of the file.

    Attributes:
        path: the file.
        pairs: number of pairs in the key-value section.
        pairs_start, pairs_end: where that section lies.
        scalars: the numbers and booleans of the metadata by their key, without strings and arrays.
        tensors: the table of tensors in the order of the file.
        alignment: tensors begin at multiples of it, counted from `data_start`.
        data_start: where the data begins.
        size: bytes of the whole file.
    """

    path: Path
    pairs: int
    pairs_start: int
    pairs_end: int
    scalars: Mapping[str, int | float | bool]
    tensors: tuple[TensorInfo, ...]
    alignment: int
    data_start: int
    size: int


def read_layout(path: Path) -> Layout:
    """Read the structure of the GGUF at `path`.

    Raises:
        BadInput: it is no GGUF of version 3, or it is damaged: cut short, or with lengths that cannot be.
    """
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise BadInput(f"{path} is not a GGUF file: it does not begin with {MAGIC.decode()}")
        with mmap(file.fileno(), 0, access=ACCESS_READ) as content:
            try:
                return _read(path, content)
            except _DamagedError as damage:
                raise BadInput(f"{path} is damaged: {damage}; make or fetch it again") from None


def padded(size: int, alignment: int) -> int:
    """`size` rounded up to a multiple of `alignment`."""
    return -(-size // alignment) * alignment


class _DamagedError(Exception):
    """The file contradicts itself; the message says how."""


class _Cursor:
    """A position in the file that moves forward and never past the end."""

    def __init__(self, content: mmap) -> None:
        self.content, self.size, self.at = content, len(content), 0

    def skip(self, length: int) -> int:
        """Move on by `length` bytes; return where they begin."""
        begin = self.at
        if length > self.size - begin:
            raise _DamagedError(f"it ends inside its header, at byte {self.size}")
        self.at += length
        return begin

    def number(self, form: str) -> int | float | bool:
        form = f"<{form}"
        return struct.unpack_from(form, self.content, self.skip(struct.calcsize(form)))[0]

    def string(self) -> str:
        length = self.number("Q")
        begin = self.skip(length)
        try:
            return self.content[begin : self.at].decode("utf-8")
        except UnicodeDecodeError:
            raise _DamagedError(f"the name at byte {begin} is not UTF-8") from None

    def skip_strings(self, count: int) -> None:
        # A vocabulary is a hundred thousand of these, so nothing but the addition is done for each.
        if count > (self.size - self.at) // 8:
            raise _DamagedError(f"an array at byte {self.at} claims {count} strings, more than the file has room for")
        content, at, last = self.content, self.at, self.size - 8
        length_at = struct.Struct("<Q").unpack_from
        for _ in range(count):
            if at > last:
                raise _DamagedError(f"it ends inside its header, at byte {self.size}")
            at += 8 + length_at(content, at)[0]
        self.at = at
        self.skip(0)


def _read(path: Path, content: mmap) -> Layout:
    cursor = _Cursor(content)
    cursor.skip(len(MAGIC))
    version = cursor.number("I")
    if version != VERSION:
        raise BadInput(f"{path} is a GGUF of version {version} and only {VERSION} can be read; make it again")
    count, pairs = cursor.number("Q"), cursor.number("Q")
    pairs_start = cursor.at
    scalars = _read_scalars(cursor, pairs)
    pairs_end = cursor.at
    alignment = scalars.get("general.alignment", DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
        raise _DamagedError(f"general.alignment is {alignment}, not a power of two")
    entries = [_read_entry(cursor) for _ in _checked_range(count, cursor)]
    # A file without tensors may end right behind its metadata.
    data_start = padded(cursor.at, alignment) if entries else cursor.at
    tensors = tuple(_with_size(entry, alignment, cursor.size - data_start) for entry in entries)
    if len({tensor.name for tensor in tensors}) != len(tensors):
        raise _DamagedError("two of its tensors have the same name")
    return Layout(path, pairs, pairs_start, pairs_end, scalars, tensors, alignment, data_start, cursor.size)


def _checked_range(count: int, cursor: _Cursor) -> range:
    # Every pair and every tensor takes more than eight bytes.
    if count > (cursor.size - cursor.at) // 8:
        raise _DamagedError(f"it claims {count} entries at byte {cursor.at}, more than it has room for")
    return range(count)


def _read_scalars(cursor: _Cursor, pairs: int) -> dict[str, int | float | bool]:
    scalars = {}
    for _ in _checked_range(pairs, cursor):
        key, kind = cursor.string(), cursor.number("I")
        if kind in _SCALARS:
            scalars[key] = cursor.number(_SCALARS[kind])
        elif kind == _STRING:
            cursor.skip(cursor.number("Q"))
        elif kind == _ARRAY:
            kind, length = cursor.number("I"), cursor.number("Q")
            if kind == _STRING:
                cursor.skip_strings(length)
            elif kind in _SCALARS:
                cursor.skip(struct.calcsize(f"<{_SCALARS[kind]}") * length)
            else:
                raise _DamagedError(f"{key!r} is an array of the unknown type {kind}")
        else:
            raise _DamagedError(f"{key!r} has the unknown type {kind}")
    return scalars


def _read_entry(cursor: _Cursor) -> tuple[str, int, tuple[int, ...], int]:
    """Name, type, shape and offset of a tensor."""
    name, dimensions = cursor.string(), cursor.number("I")
    if dimensions > _MAX_DIMENSIONS:
        raise _DamagedError(f"the tensor {name!r} has {dimensions} dimensions")
    shape = tuple(cursor.number("Q") for _ in range(dimensions))
    return name, cursor.number("I"), shape, cursor.number("Q")


def _with_size(entry: tuple[str, int, tuple[int, ...], int], alignment: int, room: int) -> TensorInfo:
    from gguf import GGML_QUANT_SIZES

    name, number, shape, offset = entry
    if number not in GGML_QUANT_SIZES:
        raise _DamagedError(f"the tensor {name!r} has the unknown type {number}")
    block, block_bytes = GGML_QUANT_SIZES[number]
    if shape and shape[0] % block:
        raise _DamagedError(f"the rows of the tensor {name!r} are {shape[0]} long, not a multiple of {block}")
    size = math.prod(shape) // block * block_bytes
    if offset % alignment:
        raise _DamagedError(f"the tensor {name!r} begins at {offset}, not at a multiple of {alignment}")
    if offset + size > room:
        raise _DamagedError(f"the tensor {name!r} reaches {offset + size - room} bytes past its end")
    return TensorInfo(name, number, shape, offset, size)
