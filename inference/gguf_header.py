"""What a GGUF says about itself, read from its header alone.

The tensors are never touched and the vocabulary is stepped over, so a file of any size takes well under a
second. Every length in the file is checked before it is believed: the file may be cut short or hostile.
"""

import struct
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from .errors import InputError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
STRING, ARRAY = 8, 9
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}

# Far above anything real, far below what would exhaust the memory or the patience of the reader.
MAX_METADATA_PAIRS = 100_000
MAX_TENSORS = 1_000_000
MAX_KEY_BYTES = 65_535
MAX_STRING_BYTES = 16 * 2**20
MAX_ARRAY_DEPTH = 4
READ_AHEAD = 2**20

# ggml tensor type → (name, elements in a block, bytes in a block)
TENSOR_TYPES = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    39: ("MXFP4", 32, 17),
}

# general.file_type, llama.cpp's number for "mostly this type"
FILE_TYPES = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    7: "Q8_0",
    8: "Q5_0",
    9: "Q5_1",
    10: "Q2_K",
    11: "Q3_K_S",
    12: "Q3_K_M",
    13: "Q3_K_L",
    14: "Q4_K_S",
    15: "Q4_K_M",
    16: "Q5_K_S",
    17: "Q5_K_M",
    18: "Q6_K",
    19: "IQ2_XXS",
    20: "IQ2_XS",
    21: "Q2_K_S",
    22: "IQ3_XS",
    23: "IQ3_XXS",
    24: "IQ1_S",
    25: "IQ4_NL",
    26: "IQ3_S",
    27: "IQ3_M",
    28: "IQ2_S",
    29: "IQ2_M",
    30: "IQ4_XS",
    31: "IQ1_M",
    32: "BF16",
    38: "MXFP4",
}


@dataclass(frozen=True)
class GGUFHeader:
    """The header of one GGUF file.

    `metadata` holds the scalars and strings by their key; of an array it holds only the length, under
    `<key>.length`. `context_length` is in tokens and 0 where the file does not say, `size_bytes` is the size of
    the file on disk, `parameters` the number of weights.
    """

    path: Path
    architecture: str
    name: str
    quantization: str
    context_length: int
    chat_template: str | None
    size_bytes: int
    parameters: int
    metadata: dict[str, Any] = field(repr=False)


def read_header(path: str | Path) -> GGUFHeader:
    """Read the header of the GGUF at `path`.

    Raises:
        InputError: there is no such file, it is a folder, cannot be read, is not a GGUF, is of a version that
            llama.cpp does not read, is damaged, or is shorter than its own table of tensors says.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            return _read(path, file, path.stat().st_size)
    except FileNotFoundError:
        raise InputError(f"there is no file {path}; give the path of a GGUF model") from None
    except IsADirectoryError:
        raise InputError(f"{path} is a folder; give the path of a GGUF file in it") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error


def check_chat_model(header: GGUFHeader) -> None:
    """Raise `InputError` when the file is a GGUF but nothing that one could chat with."""
    kind = header.metadata.get("general.type", "model")
    if kind != "model":
        raise InputError(f"{header.path} is not a model but a part of one ({kind}); give the model itself")
    if header.parameters == 0:
        raise InputError(f"{header.path} holds a vocabulary and no weights; give the full model")


class _Damaged(Exception):
    """The header contradicts itself; the message says where."""


class _Source:
    """The first part of a file, read ahead as far as it is asked for."""

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
                raise _Damaged("it ends in the middle of its header")
            del self.buffer[:offset]
            self.start, offset = self.position, 0
            self.buffer += self.file.read(max(count - len(self.buffer), READ_AHEAD))
            if len(self.buffer) < count:
                raise _Damaged("it ends in the middle of its header")
        return offset

    def scalar(self, code: str) -> Any:
        width = struct.calcsize("<" + code)
        offset = self.require(width)
        self.position += width
        return struct.unpack_from("<" + code, self.buffer, offset)[0]

    def string(self, limit: int) -> str:
        length = self.scalar("Q")
        if length > limit:
            raise _Damaged(f"it claims a text of {length:,} bytes")
        offset = self.require(length)
        self.position += length
        return self.buffer[offset : offset + length].decode("utf-8", errors="replace")

    def skip(self, count: int) -> None:
        if count > self.size - self.position:
            raise _Damaged("it ends in the middle of its header")
        self.position += count
        if self.position > self.start + len(self.buffer):
            self.file.seek(self.position)
            self.buffer.clear()
            self.start = self.position

    def skip_strings(self, count: int) -> None:
        unpack = struct.Struct("<Q").unpack_from
        if count > (self.size - self.position) // 8:
            raise _Damaged(f"it claims a list of {count:,} texts")
        for _ in range(count):
            # The common case, all within the buffer, without a call: a vocabulary has hundreds of thousands.
            offset = self.position - self.start
            if offset + 8 > len(self.buffer):
                offset = self.require(8)
            (length,) = unpack(self.buffer, offset)
            self.position += 8
            if length <= len(self.buffer) - offset - 8:
                self.position += length
            else:
                self.skip(length)


def _read(path: Path, file: BinaryIO, size: int) -> GGUFHeader:
    source = _Source(file, size)
    if size < 4 or source.buffer[source.require(4) :][:4] != MAGIC:
        raise InputError(f"{path} is not a GGUF file; give a model in the GGUF format")
    source.position = 4
    try:
        version = source.scalar("I")
        if version not in VERSIONS:
            swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
            problem = "big-endian" if swapped in VERSIONS else f"version {version}"
            raise InputError(f"{path} is a GGUF of a kind that is not supported ({problem}); convert the model again")
        tensor_count, pair_count = source.scalar("Q"), source.scalar("Q")
        if tensor_count > MAX_TENSORS or pair_count > MAX_METADATA_PAIRS:
            raise _Damaged(f"it claims {tensor_count:,} tensors and {pair_count:,} metadata entries")
        metadata: dict[str, Any] = {}
        for _ in range(pair_count):
            key = source.string(MAX_KEY_BYTES)
            _read_value(source, key, source.scalar("I"), metadata)
        parameters, types, data_bytes = _read_tensor_table(source, tensor_count)
    except _Damaged as damage:
        raise InputError(f"{path} is damaged or incomplete: {damage}; download or convert it again") from None
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment <= 0:
        alignment = 32
    expected = -(-source.position // alignment) * alignment + data_bytes
    if tensor_count and size < expected:
        raise InputError(f"{path} is incomplete: it has {size:,} of {expected:,} bytes; download or convert it again")
    architecture = str(metadata.get("general.architecture", "unknown"))
    context_length = metadata.get(f"{architecture}.context_length", 0)
    template = metadata.get("tokenizer.chat_template")
    return GGUFHeader(
        path=path,
        architecture=architecture,
        name=str(metadata.get("general.name") or path.stem),
        quantization=FILE_TYPES.get(metadata.get("general.file_type", -1)) or (types[0] if types else "unknown"),
        context_length=context_length if isinstance(context_length, int) else 0,
        chat_template=template if isinstance(template, str) else None,
        size_bytes=size,
        parameters=parameters,
        metadata=metadata,
    )


def _read_value(source: _Source, key: str, kind: int, metadata: dict[str, Any]) -> None:
    if kind in SCALARS:
        metadata[key] = source.scalar(SCALARS[kind])
    elif kind == STRING:
        metadata[key] = source.string(MAX_STRING_BYTES)
    elif kind == ARRAY:
        metadata[f"{key}.length"] = _skip_array(source, MAX_ARRAY_DEPTH)
    else:
        raise _Damaged(f"its entry {key[:80]!r} is of an unknown type {kind}")


def _skip_array(source: _Source, depth: int) -> int:
    kind, count = source.scalar("I"), source.scalar("Q")
    if kind in SCALARS:
        source.skip(count * struct.calcsize("<" + SCALARS[kind]))
    elif kind == STRING:
        source.skip_strings(count)
    elif kind == ARRAY and depth > 1 and count <= MAX_METADATA_PAIRS:
        for _ in range(count):
            _skip_array(source, depth - 1)
    else:
        raise _Damaged(f"it has a list of an unknown type {kind}")
    return count


def _read_tensor_table(source: _Source, count: int) -> tuple[int, list[str], int]:
    """Return the number of weights, the tensor types by falling share of them, and the bytes of tensor data."""
    parameters, end = 0, 0
    share: Counter[str] = Counter()
    for _ in range(count):
        source.string(MAX_KEY_BYTES)
        dimensions = source.scalar("I")
        if dimensions > 8:
            raise _Damaged(f"it claims a tensor of {dimensions} dimensions")
        elements = 1
        for _ in range(dimensions):
            elements *= source.scalar("Q")
        kind, offset = source.scalar("I"), source.scalar("Q")
        name, block, block_bytes = TENSOR_TYPES.get(kind, (f"type {kind}", 1, 0))
        parameters += elements
        share[name] += elements
        end = max(end, offset + elements // block * block_bytes)
    return parameters, [name for name, _ in share.most_common()], end
