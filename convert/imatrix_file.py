"""Importance matrices on disk: llama.cpp's GGUF files of them, which we also write, and its older `.dat` files."""

import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets_cfg.errors import BadInput, one_line

if TYPE_CHECKING:
    import numpy as np

CHUNK = 512
"""Tokens of a chunk where a file does not say, as in llama.cpp's own tool."""

_SUMS, _COUNTS = ".in_sum2", ".counts"
_HEAD = 65536


@dataclass(frozen=True, eq=False)
class ImportanceMatrix:
    """How strongly the inputs of each weight are driven, per column of the weight.

    Attributes:
        sums: name of a weight (`blk.0.attn_q.weight`) → squares of its inputs, summed over the tokens: float32 of shape
            (matrices, columns); more than one matrix only where a mixture of experts keeps them in one tensor.
        counts: name of a weight → tokens that went into each matrix: int64 of shape (matrices,).
        chunks: chunks of text that were evaluated.
        chunk_size: tokens of a chunk.
        datasets: what was evaluated, for the metadata of quantized files.
    """

    sums: Mapping[str, "np.ndarray"]
    counts: Mapping[str, "np.ndarray"]
    chunks: int
    chunk_size: int
    datasets: tuple[str, ...]


def mean_squares(matrix: ImportanceMatrix) -> dict[str, "np.ndarray"]:
    """Name of a weight → mean square of each input, flat float32, as the quantizer wants it.

    A matrix that no token went through (an expert that was never chosen) gets 1 everywhere, as in llama-quantize.
    """
    import numpy as np

    means = {}
    for name, sums in matrix.sums.items():
        counts = matrix.counts[name].astype(np.float32)[:, None]
        means[name] = np.where(counts > 0, sums / np.maximum(counts, 1), np.float32(1)).ravel()
    return means


def read_imatrix(path: Path) -> ImportanceMatrix:
    """Read either format.

    Raises:
        BadInput: there is no such file, or it is no importance matrix, or it is damaged.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            if data[:4] != b"GGUF":
                return _read_dat(data)
            # Reading the vocabulary of a model takes seconds; its metadata do not begin like those of a matrix.
            if b"imatrix" not in data[:_HEAD]:
                raise BadInput(f"{path} is a GGUF, but not of an importance matrix; give the file of the matrix")
        return _read_gguf(path)
    except (BadInput, MemoryError):
        raise
    except OSError as error:
        raise BadInput(
            f"{path} cannot be read: {error.strerror}; give an importance matrix, a .gguf or .dat"
        ) from error
    except Exception as error:  # whatever is wrong with the bytes comes out of struct, numpy or gguf in its own way
        raise BadInput(
            f"{path} is damaged, or no importance matrix of llama.cpp ({one_line(error)}); "
            "get it again, or compute it with --imatrix"
        ) from error


def write_imatrix(path: Path, matrix: ImportanceMatrix) -> None:
    """Write `matrix` as a GGUF for llama.cpp's tools, with the keys, names and order of llama-imatrix.

    Raises:
        OSError: the disk is full, say; nothing is left at `path`.
    """
    import gguf
    import numpy as np

    writer = gguf.GGUFWriter(path, "imatrix")
    del writer.kv_data[0][gguf.Keys.General.ARCHITECTURE]  # a matrix has none
    writer.add_type(gguf.GGUFType.IMATRIX)
    # llama-quantize refuses a file without this key, and the format has no empty list.
    writer.add_array(gguf.Keys.IMatrix.DATASETS, list(matrix.datasets or ("",)))
    writer.add_uint32(gguf.Keys.IMatrix.CHUNK_COUNT, matrix.chunks)
    writer.add_uint32(gguf.Keys.IMatrix.CHUNK_SIZE, matrix.chunk_size)
    for name in sorted(matrix.sums):
        sums = matrix.sums[name].astype(np.float32)
        counts = matrix.counts[name].astype(np.float32)[:, None]
        writer.add_tensor(name + _SUMS, sums if len(sums) > 1 else sums[0])
        writer.add_tensor(name + _COUNTS, counts if len(counts) > 1 else counts[0])
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _read_gguf(path: Path) -> ImportanceMatrix:
    import gguf
    import numpy as np

    reader = gguf.GGUFReader(path)
    if reader.fields[gguf.Keys.General.TYPE].contents() != gguf.GGUFType.IMATRIX:
        raise BadInput(f"{path} is a GGUF, but not of an importance matrix; give the file of the matrix")
    found: dict[str, dict[str, np.ndarray]] = {_SUMS: {}, _COUNTS: {}}
    for tensor in reader.tensors:
        for suffix, named in found.items():
            if tensor.name.endswith(suffix):
                if tensor.tensor_type != gguf.GGMLQuantizationType.F32:
                    raise ValueError(f"{tensor.name} is {tensor.tensor_type.name} instead of F32")
                named[tensor.name.removesuffix(suffix)] = np.array(tensor.data).ravel()
    if found[_SUMS].keys() != found[_COUNTS].keys():
        name = min(found[_SUMS].keys() ^ found[_COUNTS].keys())
        raise ValueError(f"{name} has sums without counts, or counts without sums")
    return _checked(
        {name: sums.reshape(len(found[_COUNTS][name]), -1) for name, sums in found[_SUMS].items()},
        found[_COUNTS],
        chunks=reader.fields[gguf.Keys.IMatrix.CHUNK_COUNT].contents(),
        chunk_size=reader.fields[gguf.Keys.IMatrix.CHUNK_SIZE].contents(),
        datasets=reader.fields[gguf.Keys.IMatrix.DATASETS].contents(),
    )


def _read_dat(data: mmap.mmap) -> ImportanceMatrix:
    """The older format: a count of entries, and for each its name, calls and mean squares times calls."""
    import numpy as np

    at = 0

    def number() -> int:
        nonlocal at
        at += 4
        return struct.unpack_from("<i", data, at - 4)[0]

    def take(size: int) -> bytes:
        nonlocal at
        if size < 0 or at + size > len(data):
            raise ValueError(f"{size} bytes expected at byte {at} of {len(data)}")
        at += size
        return data[at - size : at]

    sums, counts = {}, {}
    for _ in range(number()):
        name = take(number()).decode("utf-8")
        calls = number()
        values = np.frombuffer(take(4 * number()), dtype="<f4")
        # The file counts calls; llama.cpp takes each for one chunk. Files older still say 0 and hold plain means.
        sums[name] = values[None] * np.float32(CHUNK)
        counts[name] = np.array([max(calls, 1) * CHUNK])
    chunks, datasets = 0, []
    if at < len(data):
        chunks = number()
        datasets = [take(number()).decode("utf-8")] if at < len(data) else []
    return _checked(sums, counts, chunks=chunks, chunk_size=CHUNK, datasets=datasets)


def _checked(
    sums: dict[str, "np.ndarray"], counts: dict[str, "np.ndarray"], *, chunks: int, chunk_size: int, datasets: Any
) -> ImportanceMatrix:
    import numpy as np

    if not sums:
        raise ValueError("there are no entries in it")
    for name, values in sums.items():
        if not (values.size and np.isfinite(values).all() and (values >= 0).all()):
            raise ValueError(f"the sums of {name} are not all numbers of 0 or more")
        # Above this float32 skips numbers, and so would the file.
        if not ((counts[name] >= 0) & (counts[name] < 2**53)).all():
            raise ValueError(f"the counts of {name} are not all numbers of 0 or more")
    whole = {name: np.rint(values).astype(np.int64) for name, values in counts.items()}
    named = (datasets,) if isinstance(datasets, str) else tuple(name for name in datasets if name)
    return ImportanceMatrix(sums, whole, int(chunks), int(chunk_size), named)
