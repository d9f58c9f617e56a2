"""One checksum for a set of weights, whatever files they lie in and in whatever order.

It is the SHA-256 of one line for each tensor, `name dtype shape sha256`, sorted and each ended by a line feed: the
name in the checkpoint, safetensors' name of the dtype (`BF16`), the shape as `[2,3]`, and the SHA-256 of the tensor's
bytes as safetensors stores them (little-endian, row-major). The configuration has no part in it.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from .checkpoint import Checkpoint


def tensor_digest(tensor: "torch.Tensor") -> str:
    """SHA-256 of a tensor's bytes, in hexadecimal.

    Nothing is copied unless the tensor is not contiguous, and the interpreter is free while the bytes are hashed, so
    another thread can do it: `pool.submit(tensor_digest, weights)`. The tensor must not change meanwhile.
    """
    import torch

    # As bytes, since numpy does not know bfloat16.
    return hashlib.sha256(tensor.detach().contiguous().view(-1).view(torch.uint8).numpy()).hexdigest()


def digest_line(name: str, dtype: str, shape: Sequence[int], digest: str) -> str:
    """A tensor's line in the checksum: its name, safetensors' name of its dtype, its shape and its `tensor_digest`."""
    return f"{name} {dtype} [{','.join(map(str, shape))}] {digest}"


def weights_digest(lines: Iterable[str]) -> str:
    """The checksum of the weights whose `digest_line`s these are, in any order; SHA-256 in hexadecimal."""
    return hashlib.sha256("".join(f"{line}\n" for line in sorted(lines)).encode()).hexdigest()


def checkpoint_digest(checkpoint: "Checkpoint", advance: Callable[[int], None] = lambda size: None) -> str:
    """The checksum of a checkpoint's weights, read one tensor at a time.

    Args:
        checkpoint: opened; anything with its `tensors` and `reader()`.
        advance: called with the bytes of each tensor that has been read.

    Raises:
        BadInput: a tensor cannot be read, or holds NaN or infinity.
    """
    lines = []
    with checkpoint.reader() as read:
        for name, stored in checkpoint.tensors.items():
            tensor = read(name)
            lines.append(digest_line(name, stored.dtype, stored.shape, tensor_digest(tensor)))
            advance(tensor.nbytes)
    return weights_digest(lines)
