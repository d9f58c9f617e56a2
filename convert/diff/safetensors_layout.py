"""Where the tensors lie in a safetensors file: its header, read and checked without the weights.

A file is the length of the header (8 bytes, little-endian), the header (JSON: for each tensor its dtype, shape, and
where its bytes begin and end behind the header), and the bytes of the tensors, without gaps.
https://huggingface.co/docs/safetensors
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from datasets_cfg.errors import BadInput, one_line

BYTES = {"F32": 4, "BF16": 2, "F16": 2, "U8": 1}
"""The dtypes that are read here, and the bytes of an element."""

_LENGTH_BYTES = 8
_LONGEST_HEADER = 100_000_000  # the format's own limit


@dataclass(frozen=True)
class Region:
    """One tensor: its dtype and shape, and the byte of its file at which it begins."""

    dtype: str
    shape: tuple[int, ...]
    begin: int

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)

    @property
    def size(self) -> int:
        """Its bytes."""
        return self.elements * BYTES[self.dtype]


@dataclass(frozen=True)
class Layout:
    """A file's header as it is written, its tensors in the order of their bytes, and the bytes of the whole file."""

    header: str
    regions: Mapping[str, Region]
    file_size: int

    def write_head(self, handle: BinaryIO) -> None:
        """Write the length and the header; the bytes of the tensors follow."""
        content = self.header.encode()
        handle.write(len(content).to_bytes(_LENGTH_BYTES, "little") + content)


def parse_layout(header: str) -> Layout:
    """The layout that a header describes.

    Raises:
        ValueError: it describes none: not JSON, another dtype, tensors that overlap or leave gaps.
    """
    entries = json.loads(header)
    if not isinstance(entries, dict):
        raise ValueError("the header is not a JSON object")
    entries.pop("__metadata__", None)
    start = end = _LENGTH_BYTES + len(header.encode())
    regions = {}
    try:
        for name, entry in sorted(entries.items(), key=lambda item: item[1]["data_offsets"]):
            begin, stop = entry["data_offsets"]
            shape = tuple(entry["shape"])
            if not all(type(number) is int and number >= 0 for number in (begin, stop, *shape)):
                raise ValueError(f"{name} has a shape or an offset that is not a whole number")
            region = Region(entry["dtype"], shape, start + begin)
            if region.begin != end or stop - begin != region.size:
                raise ValueError(f"{name} is not as many bytes as its shape, or not behind the tensor before it")
            regions[name] = region
            end += region.size
    except (KeyError, TypeError) as error:
        raise ValueError(f"an entry of the header is not a tensor's ({type(error).__name__}: {error})") from None
    return Layout(header, regions, end)


def read_layout(file: Path) -> Layout:
    """The layout of a file.

    Raises:
        BadInput: there is no such file, it is not in safetensors' format, or it is cut short.
    """
    try:
        with file.open("rb") as handle:
            length = int.from_bytes(handle.read(_LENGTH_BYTES), "little")
            if length > _LONGEST_HEADER:
                raise ValueError("the header is longer than the format allows")
            layout = parse_layout(handle.read(length).decode())
        if (size := file.stat().st_size) != layout.file_size:
            raise ValueError(f"it has {size:,} bytes and its header describes {layout.file_size:,}")
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(f"{file} is missing, damaged or cut short ({one_line(error)}); copy it again") from None
    return layout
