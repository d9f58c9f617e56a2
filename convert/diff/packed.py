"""Compressed differences in a safetensors file: each piece of a tensor is a tensor of bytes, `NAME#NUMBER`.

How many bytes a piece takes is known when it has been compressed, so the pieces lie in the order in which the threads
finished them. The header, which says where, is written last into room that was left for it.
"""

import json
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from datasets_cfg.errors import BadInput

from .bit_difference import pack, unpack
from .safetensors_layout import BYTES, Layout
from .tensor_pieces import PIECE, spans

if TYPE_CHECKING:
    import numpy as np

_DEFLATE_AT_MOST = 1032
"""Bytes that deflate can make of one: two bits for each run of 258. https://zlib.net/zlib_tech.html"""


class PackedWriter:
    """A file of compressed pieces for the tensors of one weight file; any thread may add to it."""

    def __init__(self, file: Path, tensors: Layout):
        """Leave room for the longest header that may be."""
        self._file = file
        self._lock = threading.Lock()
        self._entries: dict[str, dict] = {}
        longest = 2 * tensors.file_size  # more than deflate makes of bytes that cannot be compressed
        for name, region in tensors.regions.items():
            for first, _ in spans(region.elements):
                self._entries[_piece_name(name, first)] = _entry(0, longest)
        # Both offsets of an entry may get as long as the longer one, and the header's length is a multiple of 8.
        room = len(self._header()) + len(self._entries) * len(str(longest))
        self._room = -(-room // 8) * 8
        self._end = 0
        file.write_bytes(self._room.to_bytes(8, "little") + b" " * self._room)

    def write(self, name: str, first: int, diff: "np.ndarray") -> None:
        """Compress and append the piece of a tensor that begins at the element `first`."""
        packed = pack(diff)
        with self._lock, self._file.open("ab") as handle:
            handle.write(packed)
            self._entries[_piece_name(name, first)] = _entry(self._end, self._end + len(packed))
            self._end += len(packed)

    def finish(self) -> None:
        """Write the header; all pieces have been added."""
        with self._file.open("r+b") as handle:
            handle.seek(8)
            # The format allows spaces behind the header.
            handle.write(self._header().ljust(self._room))

    def _header(self) -> bytes:
        return json.dumps(self._entries, separators=(",", ":")).encode()


def check_whole(file: Path, layout: Layout, wanted: Layout) -> None:
    """Check that every piece of the tensors is there, so that no more room is taken than the file has content for.

    Args:
        file: a file of compressed pieces.
        layout: the file's own.
        wanted: that of the weight file that is to be made of it.

    Raises:
        BadInput: a piece is missing, or has fewer bytes than it can have.
    """
    for name, region in wanted.regions.items():
        for first, count in spans(region.elements):
            piece = layout.regions.get(_piece_name(name, first))
            if piece is None or piece.size * _DEFLATE_AT_MOST < count * BYTES[region.dtype]:
                raise BadInput(f"{file} lacks a part of the tensor {name}; get the diff again")


def read_packed(file: Path, layout: Layout, name: str, first: int, count: int, dtype: str) -> "np.ndarray":
    """The piece of a tensor that begins at the element `first`, decompressed; `layout` is the file's own, and whole.

    Raises:
        BadInput: the piece is damaged.
    """
    region = layout.regions[_piece_name(name, first)]
    with file.open("rb") as handle:
        handle.seek(region.begin)
        packed = handle.read(region.size)
    try:
        return unpack(packed, count, dtype)
    except ValueError as error:
        raise BadInput(f"{file}: the tensor {name} is damaged ({error}); get the diff again") from None


def _piece_name(name: str, first: int) -> str:
    return f"{name}#{first // PIECE}"


def _entry(begin: int, end: int) -> dict:
    return {"dtype": "U8", "shape": [end - begin], "data_offsets": [begin, end]}
