"""Quantize a GGUF with llama.cpp's own quantizer."""

import errno
import math
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets_cfg.errors import BadInput

from .child import COMPLAINTS, ChildFailed, follow_log, run_child, serve_parent
from .file_types import known_types
from .imatrix_file import ImportanceMatrix, mean_squares, read_imatrix, write_imatrix

_TENSOR = re.compile(r"\[\s*\d+/\s*\d+\]\s+(\S+)\s+- \[([\d, ]+)\], type =\s*(\w+)")
_ALIGNMENT = 32
_BUFFER = 64 * 1024 * 1024
"""Bytes of rows that the quantizer holds at once. Its own bound of 8 GiB makes the same Q8_0 from 268 million BF16
weights in 1.3 GB of memory instead of 46 MB, and no sooner."""


@dataclass(frozen=True)
class PlannedTensor:
    """What the quantizer would make of a tensor: its shape (columns first, as in ggml), its bytes before and after."""

    name: str
    shape: tuple[int, ...]
    bytes_before: int
    bytes_after: int


def quantize(
    source: Path,
    target: Path,
    file_type: str,
    *,
    threads: int,
    advance: Callable[[int], None],
    imatrix: Path | ImportanceMatrix | None = None,
    imatrix_name: str | None = None,
) -> None:
    """Write the GGUF `source` as `target` in another type; whatever goes wrong, no `target` is left.

    Args:
        source: an unquantized GGUF.
        target: the file to write.
        file_type: the usual name of a type.
        threads: CPU threads.
        advance: called with 1 for each tensor.
        imatrix: an importance matrix of this model, or a file of one.
        imatrix_name: what the metadata call the matrix (`quantize.imatrix.file`); else the name of its file.

    Raises:
        BadInput: llama.cpp cannot make this type of this model (some need an importance matrix), or the matrix is none
            of this model.
        OSError: the disk is full.
    """
    with _matrix_file(imatrix, target) as matrix_file:
        request = _request(source, file_type, threads, matrix_file) | {"target": str(target)}
        if matrix_file is not None:
            matrix = read_imatrix(matrix_file)
            request["metadata"] = _matrix_metadata(matrix, imatrix_name or _file_name(imatrix))
            _check_matrix(matrix, _plan(request, file_type))
        try:
            _run(request, file_type, lambda _: advance(1))
        except BaseException:
            target.unlink(missing_ok=True)
            raise


def quantized_size(source: Path, file_type: str, *, imatrix: Path | ImportanceMatrix | None = None) -> int:
    """The bytes of the file that `quantize` would write, to within 32, found without quantizing anything.

    Raises:
        BadInput: as `quantize`.
    """
    with _matrix_file(imatrix, source) as matrix_file:
        request = _request(source, file_type, 1, matrix_file)
        planned = _plan(request, file_type)
        metadata = _matrix_metadata(read_imatrix(matrix_file), _file_name(imatrix)) if matrix_file else {}
    header = source.stat().st_size - sum(_padded(tensor.bytes_before) for tensor in planned)
    # Each entry: its length and key, its type, and a number of four bytes or a text with its length.
    header += sum(
        12 + len(key) + (8 + len(value.encode()) if isinstance(value, str) else 4) for key, value in metadata.items()
    )
    return _padded(header) + sum(_padded(tensor.bytes_after) for tensor in planned)


@contextmanager
def _matrix_file(imatrix: Path | ImportanceMatrix | None, beside: Path) -> Iterator[Path | None]:
    """Yield a file of the matrix: the user's, or one that is written beside the GGUF for as long as it is needed."""
    if not isinstance(imatrix, ImportanceMatrix):
        yield imatrix
        return
    path = beside.with_suffix(".matrix.gguf")
    try:
        write_imatrix(path, imatrix)
        yield path
    finally:
        path.unlink(missing_ok=True)


def _file_name(imatrix: Path | ImportanceMatrix | None) -> str | None:
    return imatrix.name if isinstance(imatrix, Path) else None


def _request(source: Path, file_type: str, threads: int, matrix_file: Path | None) -> dict[str, Any]:
    return {
        "source": str(source),
        "number": known_types()[file_type],
        "threads": threads,
        "imatrix": None if matrix_file is None else str(matrix_file),
    }


def _plan(request: dict[str, Any], file_type: str) -> list[PlannedTensor]:
    planned: list[PlannedTensor] = []

    def on_report(report: dict) -> None:
        planned.append(PlannedTensor(report["name"], tuple(report["shape"]), report["before"], report["after"]))

    _run(request | {"target": None}, file_type, on_report)
    return planned


def _run(request: dict[str, Any], file_type: str, on_report: Callable[[dict], None]) -> None:
    try:
        run_child("convert.quantize", request, on_report)
    except ChildFailed as failure:
        said = str(failure)
        if request["target"] and "iostream" in said:
            _raise_what_writing_does(Path(request["target"]))
        if request["imatrix"] is None and ("importance matrix" in said or "imatrix" in said):
            raise BadInput(
                f"{file_type} needs an importance matrix; give one with --imatrix (a mixture, a text or a file of "
                "one), or choose a type without this need, such as Q2_K or IQ4_XS"
            ) from failure
        raise BadInput(f"llama.cpp's quantizer cannot make {file_type} of this model: {failure}") from failure


def _raise_what_writing_does(target: Path) -> None:
    """llama.cpp does not say why it could not write. Writing on does: a full disk is full to its last block."""
    try:
        with target.open("ab") as file:
            file.write(bytes(1 << 16))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise BadInput(f"{target} cannot be written: {error.strerror}") from error


def _matrix_metadata(matrix: ImportanceMatrix, name: str | None) -> dict[str, str | int]:
    """The entries that llama-quantize writes about a matrix, under its keys."""
    entries: dict[str, str | int] = {}
    if name:
        entries["quantize.imatrix.file"] = _cut(name)
    if matrix.datasets:
        entries["quantize.imatrix.dataset"] = _cut(matrix.datasets[0])
    entries["quantize.imatrix.entries_count"] = len(matrix.sums)
    if matrix.chunks > 0:
        entries["quantize.imatrix.chunks_count"] = matrix.chunks
    return entries


def _cut(text: str) -> str:
    """As much of a text as llama.cpp's struct for such entries holds: 127 bytes and a zero."""
    return text.encode()[:127].decode(errors="ignore")


def _check_matrix(matrix: ImportanceMatrix, planned: list[PlannedTensor]) -> None:
    known = False
    missing = None
    for tensor in planned:
        # The quantizer never insists on a matrix for the embeddings.
        if tensor.name in matrix.sums and not tensor.name.startswith("token_embd"):
            columns, given = tensor.shape[0] * math.prod(tensor.shape[2:]), matrix.sums[tensor.name].size
            if given != columns:
                raise BadInput(
                    f"--imatrix: the matrix is of another model: it has {given} columns for {tensor.name}, this one "
                    f"{columns}; compute one on this model"
                )
            known = True
        elif tensor.name.startswith("blk.") and tensor.bytes_after != tensor.bytes_before:
            missing = missing or tensor.name
    if not known:
        raise BadInput(
            "--imatrix: the matrix is of another model: it knows none of this one's weights; compute one on this model"
        )
    if missing:
        raise BadInput(
            f"--imatrix: the matrix lacks {missing}, so it is of a part of the model; compute it on the whole model"
        )


def _padded(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _work(request: dict, report: Callable[[dict], None]) -> None:
    """Quantize, or with no target only report what would be made of each tensor."""
    import llama_cpp

    dry = request["target"] is None
    tensor: dict[str, Any] = {}
    lacking: list[str] = []

    def on_line(level: int, text: str) -> None:
        if found := _TENSOR.match(text):
            tensor.update(name=found[1], shape=[int(n) for n in found[2].split(",")], type=found[3])
            if not dry:
                report({"name": found[1]})
        elif dry and text.startswith("size ="):
            to = re.search(r"\((\w+)\)$", text)
            before, after = (
                _bytes(name, tensor["shape"]) for name in (tensor["type"], to[1] if to else tensor["type"])
            )
            report({"name": tensor["name"], "shape": tensor["shape"], "before": before, "after": after})
        elif dry and "will require an imatrix" in text:
            lacking.append(text)
        elif level in COMPLAINTS:
            report({"log": text})

    follow_log(on_line)
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = request["number"]
    parameters.nthread = request["threads"]
    parameters.max_buf_size = _BUFFER
    parameters.dry_run = dry
    if request.get("imatrix"):
        parameters.imatrix = _matrix_array(mean_squares(read_imatrix(Path(request["imatrix"]))))
    if request.get("metadata"):
        parameters.kv_overrides = _override_array(request["metadata"])
    target = "" if dry else request["target"]
    code = llama_cpp.llama_model_quantize(request["source"].encode(), target.encode(), parameters)
    if code:
        raise RuntimeError(f"the quantizer returned {code}")
    if lacking:
        raise RuntimeError(lacking[0])


def _bytes(type_name: str, shape: list[int]) -> int:
    """Bytes of a tensor by ggml's own table."""
    import ctypes

    from llama_cpp._ggml import libggml

    libggml.ggml_type_name.restype = ctypes.c_char_p
    libggml.ggml_row_size.restype = ctypes.c_size_t
    libggml.ggml_row_size.argtypes = (ctypes.c_int, ctypes.c_int64)
    number = next(number for number in range(256) if libggml.ggml_type_name(number) == type_name.encode())
    return libggml.ggml_row_size(number, shape[0]) * math.prod(shape[1:])


def _matrix_array(means: dict[str, Any]) -> Any:
    import ctypes

    import llama_cpp

    array = (llama_cpp.llama_model_imatrix_data * (len(means) + 1))()  # the last one stays empty: the end
    for entry, (name, values) in zip(array, means.items(), strict=False):
        entry.name, entry.size = name.encode(), values.size
        entry.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    array.keep = means
    return array


def _override_array(metadata: dict[str, str | int]) -> Any:
    import llama_cpp

    array = (llama_cpp.llama_model_kv_override * (len(metadata) + 1))()  # the last one stays empty: the end
    for entry, (key, value) in zip(array, metadata.items(), strict=False):
        entry.key = key.encode()
        if isinstance(value, str):
            entry.tag, entry.value.val_str = llama_cpp.LLAMA_KV_OVERRIDE_TYPE_STR, value.encode()
        else:
            entry.tag, entry.value.val_i64 = llama_cpp.LLAMA_KV_OVERRIDE_TYPE_INT, value
    return array


if __name__ == "__main__":
    serve_parent(_work)
