"""The difference of two arrays of floating-point numbers that loses no bit, and its compact form.

The bit patterns are subtracted as whole numbers modulo 2^16 or 2^32, so adding gives back every bit: of NaN, of -0.0,
of numbers whose floating-point difference would be rounded. Numbers that are close have patterns that are close, so
the differences of a fine-tuned model are small, and `pack` makes use of that.
"""

import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

_BITS = {"F32": "<u4", "BF16": "<u2", "F16": "<u2"}


def bit_type(dtype: str) -> "np.dtype":
    """numpy's whole numbers as wide as a dtype (`F32`, `BF16`, `F16`), little-endian."""
    import numpy as np

    return np.dtype(_BITS[dtype])


def cast(bits: "np.ndarray", source: str, target: str) -> "np.ndarray":
    """The bit patterns of numbers in another dtype: torch's cast (to the nearest, ties to even), every NaN the same."""
    import torch

    if source == target:
        return bits
    names = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
    numbers = torch.from_numpy(bits).view(names[source]).to(names[target])
    # Which NaN a cast gives depends on the processor.
    numbers.masked_fill_(numbers.isnan(), float("nan"))
    return numbers.view(torch.uint32 if target == "F32" else torch.uint16).numpy()


def difference(tuned: "np.ndarray", base: "np.ndarray") -> "np.ndarray":
    """`tuned - base` modulo 2^bits. `base` may be shorter; zeros follow it."""
    result = tuned.copy()
    result[: len(base)] -= base
    return result


def add(diff: "np.ndarray", base: "np.ndarray") -> "np.ndarray":
    """`diff + base` modulo 2^bits. `base` may be shorter; zeros follow it."""
    result = diff.copy()
    result[: len(base)] += base
    return result


def pack(diff: "np.ndarray") -> bytes:
    """A difference in fewer bytes.

    The sign goes into the lowest bit, so that small differences of both signs have leading zeros; then all first bytes,
    all second bytes and so on, so that the zeros stand together; then deflate with its run-length strategy, which here
    is both smaller and faster than its search for repeated strings.
    """
    import numpy as np

    width = 8 * diff.itemsize
    signed = diff.view(f"<i{diff.itemsize}")
    folded = (signed << 1) ^ (signed >> (width - 1))
    planes = np.ascontiguousarray(folded.view(np.uint8).reshape(-1, diff.itemsize).T)
    packer = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS, 9, zlib.Z_RLE)
    return packer.compress(planes) + packer.flush()


def unpack(packed: bytes, elements: int, dtype: str) -> "np.ndarray":
    """The difference of so many elements that `pack` made.

    Raises:
        ValueError: the bytes are not what `pack` makes of so many elements.
    """
    import numpy as np

    bits = bit_type(dtype)
    size = elements * bits.itemsize
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        # One byte more than wanted is enough to see that there are too many.
        content = unpacker.decompress(packed, size + 1)
    except zlib.error:
        content = b""
    if len(content) != size or not unpacker.eof:
        raise ValueError(f"its bytes do not decompress to {elements:,} elements")
    folded = np.empty(elements, bits)
    # Plane by plane, which is several times as fast as a transposition.
    for place, plane in enumerate(np.frombuffer(content, np.uint8).reshape(bits.itemsize, elements)):
        folded.view(np.uint8)[place :: bits.itemsize] = plane
    return (folded >> 1) ^ (0 - (folded & 1))
