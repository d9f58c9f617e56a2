"""What a GGUF says about itself, read from its header alone.

The tensors are never touched and the vocabulary is stepped over, so a file of any size takes well under a
second. Every length in the file is checked before it is believed: the file may be cut short or hostile.
"""

import re
import stat
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

from .errors import InputError
from .gguf_source import MAX_KEY_BYTES, MAX_METADATA_PAIRS, Damaged, Source, read_value

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_TENSORS = 1_000_000
MAX_NUMBER = 2**40
PART_NAME = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")

# general.type → what such a file is
PARTS = {
    "adapter": "is an adapter (LoRA) to a model, which has to be merged into it first (python -m convert does it)",
    "imatrix": "is an importance matrix, which serves to quantize a model",
    "mmproj": "is the part of a model that sees or hears",
    "vocab": "holds a vocabulary and no weights",
}
EMBEDDING = (
    *("bert", "nomic-bert", "nomic-bert-moe", "modern-bert", "neo-bert", "eurobert", "jina-bert-v2", "jina-bert-v3"),
    *("gemma-embedding", "llama-embed", "t5encoder"),
)

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
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36),
    41: ("Q1_0", 128, 18),
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
    36: "TQ1_0",
    37: "TQ2_0",
    38: "MXFP4",
    39: "NVFP4",
    40: "Q1_0",
}


@dataclass(frozen=True)
class GGUFHeader:
    """The header of one GGUF file.

    `metadata` holds the scalars and strings by their key, and of an array the length under `<key>.length`; a short
    array of numbers is there as a list, too. `context_length` is in tokens and 0 where the file does not say,
    `size_bytes` is the size of the file on disk, `parameters` the number of weights. The first part of a model in
    several files stands for all of it.
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

    def number(self, key: str, default: int = 0) -> int:
        """Return the whole number under `key`, or `default` where there is none that is believable."""
        value = self.metadata.get(key)
        return value if isinstance(value, int) and 0 <= value <= MAX_NUMBER else default

    def of_model(self, key: str, default: int = 0) -> int:
        """Return the whole number under the architecture's own `key`; see `number`."""
        return self.number(f"{self.architecture}.{key}", default)


def read_header(path: str | Path) -> GGUFHeader:
    """Read the header of the GGUF at `path`.

    Raises:
        InputError: there is no such file, it is a folder, cannot be read, is not a GGUF, is of a version that
            llama.cpp does not read, is damaged, is shorter than its own table of tensors says, or is a part of a
            model whose other parts are missing.
    """
    path = Path(path)
    header = _open(path)
    return _with_other_parts(header) if header.number("split.count") > 1 else header


def check_chat_model(header: GGUFHeader) -> None:
    """Raise `InputError` when the file is a GGUF but nothing that one could chat with."""
    kind = str(header.metadata.get("general.type", "model"))
    if header.architecture == "clip":
        kind = "mmproj"
    if kind != "model":
        what = PARTS.get(kind, f"is not a model but a part of one ({kind})")
        raise InputError(f"{header.path} {what}; give the model itself")
    if header.parameters == 0:
        raise InputError(f"{header.path} holds a vocabulary and no weights; give the full model")
    if header.architecture in EMBEDDING or header.of_model("pooling_type"):
        raise InputError(
            f"{header.path} is an embedding model ({header.architecture}): it compares texts and writes none; "
            "give a chat model"
        )


def _open(path: Path) -> GGUFHeader:
    try:
        if not stat.S_ISREG(path.stat().st_mode) and not path.is_dir():
            raise InputError(f"{path} is not a file; give the path of a GGUF model")
        with path.open("rb") as file:
            return _read(path, file, path.stat().st_size)
    except FileNotFoundError:
        raise InputError(f"there is no file {path}; give the path of a GGUF model") from None
    except IsADirectoryError:
        raise InputError(f"{path} is a folder; give the path of a GGUF file in it") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _with_other_parts(first: GGUFHeader) -> GGUFHeader:
    """Return the header of a model that lies in several files, of which this is the first."""
    number, count = first.number("split.no"), first.number("split.count")
    name = PART_NAME.fullmatch(first.path.name)
    if number:
        given = PART_NAME.sub(rf"\g<stem>-00001-of-{count:05}.gguf", first.path.name) if name else "the first part"
        raise InputError(
            f"{first.path} is part {number + 1} of {count} of a model; give {given}, which finds the others"
        )
    if not name or int(name["number"]) != 1 or int(name["count"]) != count:
        raise InputError(
            f"{first.path} is part 1 of {count} of a model, and llama.cpp finds the others by their names alone; "
            f"name it …-00001-of-{count:05}.gguf, and the others likewise"
        )
    paths = [first.path.with_name(f"{name['stem']}-{part:05}-of-{count:05}.gguf") for part in range(2, count + 1)]
    missing = [path.name for path in paths if not path.exists()]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise InputError(
            f"{first.path} is incomplete: {missing[0]}{more} should lie beside it; download what is missing"
        )
    others = [_open(path) for path in paths]
    return replace(
        first,
        size_bytes=first.size_bytes + sum(part.size_bytes for part in others),
        parameters=first.parameters + sum(part.parameters for part in others),
    )


def _read(path: Path, file: BinaryIO, size: int) -> GGUFHeader:
    source = Source(file, size)
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
            raise Damaged(f"it claims {tensor_count:,} tensors and {pair_count:,} metadata entries")
        metadata: dict[str, Any] = {}
        for _ in range(pair_count):
            key = source.string(MAX_KEY_BYTES)
            read_value(source, key, source.scalar("I"), metadata)
        parameters, types, data_bytes = _read_tensor_table(source, tensor_count)
    except Damaged as damage:
        raise InputError(f"{path} is damaged or incomplete: {damage}; download or convert it again") from None
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment <= 0:
        alignment = 32
    expected = -(-source.position // alignment) * alignment + data_bytes
    if tensor_count and size < expected:
        raise InputError(f"{path} is incomplete: it has {size:,} of {expected:,} bytes; download or convert it again")
    architecture = str(metadata.get("general.architecture", "unknown"))
    template, file_type = metadata.get("tokenizer.chat_template"), metadata.get("general.file_type")
    known = FILE_TYPES.get(file_type) if isinstance(file_type, int) else None
    context_length = metadata.get(f"{architecture}.context_length", 0)
    return GGUFHeader(
        path=path,
        architecture=architecture,
        name=str(metadata.get("general.name") or path.stem),
        quantization=known or (types[0] if types else "unknown"),
        context_length=context_length if isinstance(context_length, int) else 0,
        chat_template=template if isinstance(template, str) else None,
        size_bytes=size,
        parameters=parameters,
        metadata=metadata,
    )


def _read_tensor_table(source: Source, count: int) -> tuple[int, list[str], int]:
    """Return the number of weights, the tensor types by falling share of them, and the bytes of tensor data."""
    parameters, end = 0, 0
    share: Counter[str] = Counter()
    for _ in range(count):
        source.string(MAX_KEY_BYTES)
        dimensions = source.scalar("I")
        if dimensions > 8:
            raise Damaged(f"it claims a tensor of {dimensions} dimensions")
        elements = 1
        for _ in range(dimensions):
            elements *= source.scalar("Q")
        kind, offset = source.scalar("I"), source.scalar("Q")
        name, block, block_bytes = TENSOR_TYPES.get(kind, (f"type {kind}", 1, 0))
        parameters += elements
        share[name] += elements
        end = max(end, offset + elements // block * block_bytes)
    return parameters, [name for name, _ in share.most_common()], end
