"""Write a checkpoint as an unquantized GGUF, one tensor in memory at a time."""

import math
import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .architecture import TensorPlan, add_hyperparameters, gguf_architecture, rope_factors
from .checkpoint import Checkpoint
from .metadata import Provenance, add_provenance
from .tokenizer import TokenizerFields, add_tokenizer
from .weights_digest import digest_line, tensor_digest, weights_digest

if TYPE_CHECKING:
    import gguf
    import numpy as np
    import torch

WEIGHTS_SHA256 = "koala.weights_sha256"
"""The key of the digest of the checkpoint's weights, as `weights_digest` defines it."""


def write_gguf(
    path: Path,
    file_type: str,
    checkpoint: Checkpoint,
    plans: list[TensorPlan],
    config: Any,
    tokenizer: TokenizerFields,
    provenance: Provenance,
    *,
    name: str,
    chat_template: str | None,
    verified: bool,
    advance: Callable[[int], None],
) -> str:
    """Write the GGUF at `path`; return the digest of the checkpoint's weights, which goes into the metadata too.

    Args:
        path: the file.
        file_type: `F32`, `BF16` or `F16`, the type of all tensors of two dimensions; llama.cpp wants the others in F32.
        checkpoint: where the weights come from.
        plans: the tensors in order.
        config: the configuration that `plans` were made for.
        tokenizer: goes into the metadata, like the next ones.
        provenance: what is known of the model's origin.
        name: the model's name.
        chat_template: Jinja source; None for a model without one.
        verified: whether the file is published only after its verification; goes into `koala.verified`.
        advance: called with the bytes of each tensor that has been written.

    Raises:
        BadInput: a tensor holds NaN or infinity.
        OSError: the disk is full, say.
    """
    # The digest is known when all tensors have been read, but stands before them: until then something as long does.
    placeholder = secrets.token_hex(32)
    writer = _writer(path, file_type, config, tokenizer, provenance, name, chat_template, verified)
    writer.add_string(WEIGHTS_SHA256, placeholder)
    factors = rope_factors(config)
    if factors is not None:
        add_tensor_info(writer, "rope_freqs.weight", tuple(factors.shape), "F32")
    for plan in plans:
        add_tensor_info(writer, plan.target, plan.shape, _stored_type(plan, file_type))
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        header_bytes = writer.fout[0].tell()
        writer.write_ti_data_to_file()
        if factors is not None:
            writer.write_tensor_data(as_array(factors, "F32"))
        lines = []
        with checkpoint.reader() as read:
            for array, line in _prepared(plans, file_type, checkpoint, read):
                writer.write_tensor_data(array)
                lines.append(line)
                advance(array.nbytes)
            # What the model has no use for (a copy of a tied head, say) is part of the checkpoint all the same.
            for unused in set(checkpoint.tensors) - {plan.source for plan in plans}:
                lines.append(_line(checkpoint, unused, tensor_digest(read(unused))))
    finally:
        writer.close()
    sha256 = weights_digest(lines)
    _replace(path, placeholder, sha256, within=header_bytes)
    return sha256


def write_vocabulary(
    path: Path, config: Any, tokenizer: TokenizerFields, provenance: Provenance, *, name: str, chat_template: str | None
) -> None:
    """Write a GGUF without tensors at `path`, on which the tokenizer can be tried."""
    writer = _writer(path, "F32", config, tokenizer, provenance, name, chat_template, verified=False)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
    finally:
        writer.close()


def _writer(
    path: Path,
    file_type: str,
    config: Any,
    tokenizer: TokenizerFields,
    provenance: Provenance,
    name: str,
    chat_template: str | None,
    verified: bool,
) -> "gguf.GGUFWriter":
    """A writer that has the metadata."""
    import gguf

    writer = gguf.GGUFWriter(path, gguf_architecture(config))
    writer.add_type("model")
    writer.add_name(name)
    writer.add_file_type(gguf.LlamaFileType[f"{'ALL' if file_type == 'F32' else 'MOSTLY'}_{file_type}"])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    add_provenance(writer, provenance)
    writer.add_bool("koala.verified", verified)
    add_hyperparameters(writer, config)
    add_tokenizer(writer, tokenizer)
    if chat_template is not None:
        writer.add_chat_template(chat_template)
    return writer


def _prepared(
    plans: list[TensorPlan], file_type: str, checkpoint: Checkpoint, read: "Callable[[str], torch.Tensor]"
) -> "Iterator[tuple[np.ndarray, str]]":
    """Each tensor as it is written, and its line in the digest; while one is written, a thread prepares the next."""

    def prepare(plan: TensorPlan) -> "tuple[np.ndarray, str]":
        weights = read(plan.source)
        line = _line(checkpoint, plan.source, tensor_digest(weights))
        return as_array(plan.apply(weights), _stored_type(plan, file_type)), line

    with ThreadPoolExecutor(max_workers=1) as worker:
        following = worker.submit(prepare, plans[0])
        for plan in plans[1:]:
            ready, following = following.result(), worker.submit(prepare, plan)
            yield ready
        yield following.result()


def _line(checkpoint: Checkpoint, name: str, digest: str) -> str:
    stored = checkpoint.tensors[name]
    return digest_line(name, stored.dtype, stored.shape, digest)


def _replace(path: Path, old: str, new: str, *, within: int) -> None:
    """Put a text in place of another of the same length, which stands once in the first bytes of a file."""
    with path.open("r+b") as file:
        file.seek(file.read(within).index(old.encode()))
        file.write(new.encode())


def _stored_type(plan: TensorPlan, file_type: str) -> str:
    return file_type if len(plan.shape) > 1 else "F32"


def add_tensor_info(writer: Any, name: str, shape: tuple[int, ...], stored_type: str) -> None:
    """Announce a tensor of type `F32`, `BF16` or `F16` to a `gguf.GGUFWriter`."""
    import gguf
    import numpy as np

    # numpy has no bfloat16; the same bits travel as whole numbers.
    dtype = np.dtype({"F32": np.float32, "F16": np.float16, "BF16": np.uint16}[stored_type])
    writer.add_tensor_info(
        name, shape, dtype, math.prod(shape) * dtype.itemsize, gguf.GGMLQuantizationType[stored_type]
    )


def as_array(weights: "torch.Tensor", stored_type: str) -> "np.ndarray":
    """The weights as type `F32`, `BF16` or `F16`, as an array with the shape of the tensor that was announced."""
    import torch

    dtype = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[stored_type]
    weights = weights.to(dtype).contiguous()
    return (weights.view(torch.uint16) if dtype is torch.bfloat16 else weights).numpy()
