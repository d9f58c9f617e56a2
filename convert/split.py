"""A GGUF in several files, none larger than a given size, as llama.cpp loads it from the first of them.

Each part is a GGUF of its own with some of the tensors; `split.no`, `split.count` and `split.tensors.count` say which
part it is, and the first part has the whole metadata besides.
"""

import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from datasets_cfg.errors import BadInput

from .gguf_layout import DEFAULT_ALIGNMENT, MAGIC, VERSION, Layout, TensorInfo, padded, read_layout

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_BINARY_UNITS = {"KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}
_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,9})?)\s*([KMGT]?I?)B?", re.IGNORECASE | re.ASCII)

_MAX_PARTS = 2**16 - 1
"""`split.count` has 16 bits."""
_CHUNK = 2**23

# GGUF's numbers of the types of the three pairs.
_UINT16, _INT32 = 2, 5


def parse_size(text: str, *, option: str = "--split-max-size") -> int:
    """Bytes of a size as people write it: `2G`, `1.5 GB`, `500M` (powers of 1000), `2GiB` (of 1024), or plain bytes.

    Raises:
        BadInput: it is no size, or less than one byte; the message names `option`.
    """
    found = _SIZE.fullmatch(text.strip())
    unit = found and found[2].upper()
    scale = {**_UNITS, **_BINARY_UNITS}.get(unit) if found else None
    size = int(float(found[1]) * scale) if scale else 0
    if size < 1:
        raise BadInput(f"{option} {text}: not a size; write it as 500M, 2G or 1.5G")
    return size


def split_gguf(path: Path, max_size: int, advance: Callable[[int], None]) -> list[Path]:
    """Write the GGUF at `path` as parts of at most `max_size` bytes beside it, NAME-00001-of-0000N.gguf.

    Args:
        path: the whole file; it stays.
        max_size: bytes of a part, with its header.
        advance: called with the bytes of tensors that have been copied; their sum is the bytes of all tensors.

    Returns:
        The parts in order; `[path]` alone, and nothing is written, where the file is small enough already.

    Raises:
        BadInput: it is damaged or a part already, a tensor or the metadata is larger than a part may be, or there would
            be more parts than the format can count.
        OSError: the disk is full, say; no part is left then.
    """
    layout = read_layout(path)
    if layout.size <= max_size:
        return [path]
    if "split.count" in layout.scalars:
        raise BadInput(f"{path} is one part of a split file; merge the parts with llama-gguf-split --merge first")
    parts = _distribute(layout, max_size)
    targets = [path.with_name(f"{path.stem}-{number + 1:05}-of-{len(parts):05}.gguf") for number in range(len(parts))]
    try:
        with path.open("rb") as source:
            for number, (target, tensors) in enumerate(zip(targets, parts, strict=True)):
                with target.open("wb") as part:
                    _write_part(source, part, layout, tensors, number=number, count=len(parts), advance=advance)
    except BaseException:
        for target in targets:
            target.unlink(missing_ok=True)
        raise
    return targets


def check_split(path: Path, max_size: int) -> None:
    """Find out whether the GGUF can be split into parts of this size.

    Raises:
        BadInput: as `split_gguf`.
    """
    layout = read_layout(path)
    if layout.size > max_size:
        _distribute(layout, max_size)


def _distribute(layout: Layout, max_size: int) -> list[list[TensorInfo]]:
    """Tensors of each part, in the order of the file: each part takes as many as it has room for."""
    header = _header_size(layout, [], first=True)
    if header > max_size:
        raise BadInput(
            f"{layout.path}: the metadata alone takes {header:,} bytes and a part may have {max_size:,}; "
            "choose a larger --split-max-size"
        )
    parts: list[list[TensorInfo]] = [[]]
    for tensor in layout.tensors:
        if _part_size(layout, [*parts[-1], tensor], first=len(parts) == 1) <= max_size:
            parts[-1].append(tensor)
            continue
        alone = _part_size(layout, [tensor], first=False)
        if alone > max_size:
            raise BadInput(
                f"{layout.path}: the tensor {tensor.name} needs a part of {alone:,} bytes and a part may have "
                f"{max_size:,}; choose a larger --split-max-size"
            )
        parts.append([tensor])
    if len(parts) > _MAX_PARTS:
        raise BadInput(f"{layout.path}: {len(parts):,} parts are too many; choose a larger --split-max-size")
    return parts


def _part_size(layout: Layout, tensors: list[TensorInfo], *, first: bool) -> int:
    alignment = _alignment(layout, first=first)
    data = sum(padded(tensor.size, alignment) for tensor in tensors)
    return padded(_header_size(layout, tensors, first=first), alignment) + data


def _header_size(layout: Layout, tensors: list[TensorInfo], *, first: bool) -> int:
    pairs = len(_split_pairs(0, 0, 0)) + (layout.pairs_end - layout.pairs_start if first else 0)
    return len(_head(0, 0)) + pairs + sum(len(_entry(tensor, 0)) for tensor in tensors)


def _alignment(layout: Layout, *, first: bool) -> int:
    # Only the first part has the pair that changes it.
    return layout.alignment if first else DEFAULT_ALIGNMENT


def _write_part(
    source: BinaryIO,
    part: BinaryIO,
    layout: Layout,
    tensors: list[TensorInfo],
    *,
    number: int,
    count: int,
    advance: Callable[[int], None],
) -> None:
    first = number == 0
    alignment = _alignment(layout, first=first)
    part.write(_head(len(tensors), 3 + (layout.pairs if first else 0)))
    if first:
        source.seek(layout.pairs_start)
        _copy(source, part, layout.pairs_end - layout.pairs_start)
    part.write(_split_pairs(number, count, len(layout.tensors)))
    offset = 0
    for tensor in tensors:
        part.write(_entry(tensor, offset))
        offset += padded(tensor.size, alignment)
    _pad(part, alignment)
    for tensor in tensors:
        source.seek(layout.data_start + tensor.offset)
        _copy(source, part, tensor.size, advance)
        _pad(part, alignment)


def _head(tensors: int, pairs: int) -> bytes:
    return MAGIC + struct.pack("<IQQ", VERSION, tensors, pairs)


def _split_pairs(number: int, count: int, tensors: int) -> bytes:
    values = (("no", _UINT16, "H", number), ("count", _UINT16, "H", count), ("tensors.count", _INT32, "i", tensors))
    return b"".join(
        _string(f"split.{key}") + struct.pack(f"<I{form}", kind, value) for key, kind, form, value in values
    )


def _entry(tensor: TensorInfo, offset: int) -> bytes:
    dimensions = len(tensor.shape)
    return _string(tensor.name) + struct.pack(f"<I{dimensions}QIQ", dimensions, *tensor.shape, tensor.type, offset)


def _string(text: str) -> bytes:
    content = text.encode("utf-8")
    return struct.pack("<Q", len(content)) + content


def _pad(part: BinaryIO, alignment: int) -> None:
    part.write(bytes(-part.tell() % alignment))


def _copy(source: BinaryIO, target: BinaryIO, size: int, advance: Callable[[int], None] = lambda amount: None) -> None:
    left = size
    while left:
        chunk = source.read(min(left, _CHUNK))
        if not chunk:
            raise BadInput(f"{source.name} became shorter while it was split; nothing else may write to it")
        target.write(chunk)
        advance(len(chunk))
        left -= len(chunk)
