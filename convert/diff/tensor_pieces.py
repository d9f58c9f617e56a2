"""Tensors on disk as bit patterns, in pieces: what is in memory does not grow with the tensor.

Each access opens its file anew, which costs nothing beside the piece, so threads share no position in a file.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from datasets_cfg.errors import BadInput

from .bit_difference import bit_type
from .safetensors_layout import BYTES, Layout, Region

if TYPE_CHECKING:
    import numpy as np

PIECE = 1 << 18
"""Elements of a piece, the last of a tensor excepted. A compressed diff depends on it: it is part of the format."""


def spans(elements: int) -> Iterator[tuple[int, int]]:
    """The pieces of a tensor: the first element of each and how many it has."""
    for first in range(0, elements, PIECE):
        yield first, min(PIECE, elements - first)


def create_file(file: Path, layout: Layout) -> None:
    """Write the header and give the file its whole size; `write_bits` fills it."""
    with file.open("wb") as handle:
        layout.write_head(handle)
        handle.truncate(layout.file_size)


def read_bits(file: Path, region: Region, first: int, count: int) -> "np.ndarray":
    """`count` elements of a tensor from the element `first` on, as whole numbers of their width.

    Raises:
        BadInput: the file has become shorter since its header was read.
    """
    import numpy as np

    bits = np.empty(count, bit_type(region.dtype))
    with file.open("rb") as handle:
        handle.seek(region.begin + first * BYTES[region.dtype])
        if handle.readinto(bits) != bits.nbytes:
            raise BadInput(f"{file} was cut short while it was read; copy it again")
    return bits


def write_bits(file: Path, region: Region, first: int, bits: "np.ndarray") -> None:
    """Put elements into their place in a file that `create_file` made."""
    with file.open("r+b", buffering=0) as handle:
        handle.seek(region.begin + first * BYTES[region.dtype])
        rest = memoryview(bits).cast("B")
        while rest:
            rest = rest[handle.write(rest) :]
