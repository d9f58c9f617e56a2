"""ggml's tensors as seen from a callback: the layout of the struct, held to what ggml's own functions say of it."""

import ctypes
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

_DIMENSIONS, _PARAMETERS, _SOURCES, _NAME = 4, 16, 10, 64
_FLOAT32 = 0
_OBJECT_BYTES = 32
"""What ggml_tensor_overhead counts besides the tensor itself."""


class Tensor(ctypes.Structure):
    """`struct ggml_tensor` of the llama.cpp in llama-cpp-python 0.3.36; `check_layout` says whether it still is."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("buffer", ctypes.c_void_p),
        ("ne", ctypes.c_int64 * _DIMENSIONS),
        ("nb", ctypes.c_size_t * _DIMENSIONS),
        ("op", ctypes.c_int),
        ("op_params", ctypes.c_int32 * _PARAMETERS),
        ("flags", ctypes.c_int32),
        ("src", ctypes.c_void_p * _SOURCES),
        ("view_src", ctypes.c_void_p),
        ("view_offs", ctypes.c_size_t),
        ("data", ctypes.c_void_p),
        ("name", ctypes.c_char * _NAME),
        ("extra", ctypes.c_void_p),
        ("padding", ctypes.c_char * 8),
    )


class _InitParameters(ctypes.Structure):
    _fields_ = (("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool))


def matrix_product() -> int:
    """ggml's number for the operation MUL_MAT.

    Raises:
        RuntimeError: ggml has no such operation.
    """
    name = _function("ggml_op_name", ctypes.c_char_p, ctypes.c_int)
    # ggml has about a hundred operations, this one among the first thirty, and looks no number up safely.
    for number in range(64):
        if name(number) == b"MUL_MAT":
            return number
    raise RuntimeError("this llama.cpp has no operation MUL_MAT")


def check_layout() -> None:
    """Make a small product of matrices and compare what `Tensor` finds in it with what ggml's functions say.

    Raises:
        RuntimeError: another version of llama.cpp lays its tensors out in another way.
    """
    pointer, count = ctypes.c_void_p, ctypes.c_int64
    context = _function("ggml_init", pointer, _InitParameters)(_InitParameters(1 << 16, None, False))
    try:
        new = _function("ggml_new_tensor_2d", pointer, pointer, ctypes.c_int, count, count)
        weights, inputs = new(context, _FLOAT32, 6, 3), new(context, _FLOAT32, 6, 5)
        _function("ggml_set_name", pointer, pointer, ctypes.c_char_p)(inputs, b"inputs")
        product = _function("ggml_mul_mat", pointer, pointer, pointer, pointer)(context, weights, inputs)
        seen, made = Tensor.from_address(inputs), Tensor.from_address(product)
        fits = (
            _function("ggml_tensor_overhead", ctypes.c_size_t)() == ctypes.sizeof(Tensor) + _OBJECT_BYTES
            and _function("ggml_get_name", pointer, pointer)(inputs) == inputs + Tensor.name.offset
            and _function("ggml_get_data", pointer, pointer)(inputs) == seen.data
            and (seen.type, seen.name, list(seen.ne), list(seen.nb))
            == (_FLOAT32, b"inputs", [6, 5, 1, 1], [4, 24, 120, 120])
            and _function("ggml_nelements", count, pointer)(product) == 3 * 5 == made.ne[0] * made.ne[1]
            and (made.op, list(made.src)) == (matrix_product(), [weights, inputs] + [None] * (_SOURCES - 2))
        )
    finally:
        _function("ggml_free", None, pointer)(context)
    if not fits:
        import llama_cpp

        raise RuntimeError(
            f"llama-cpp-python {llama_cpp.__version__} lays its tensors out otherwise than 0.3.36; install that version"
        )


def float_rows(tensor: Tensor) -> "np.ndarray":
    """The numbers of a float32 tensor in main memory, of shape (rows, columns); a view where rows lie evenly.

    Raises:
        RuntimeError: it is of another type, or lies elsewhere.
    """
    import numpy as np

    on_host = _function("ggml_backend_buffer_is_host", ctypes.c_bool, ctypes.c_void_p)
    if tensor.type != _FLOAT32 or tensor.nb[0] != 4 or not (tensor.buffer and on_host(tensor.buffer)):
        raise RuntimeError(f"the activations {tensor.name.decode()} are not plain float32 numbers in main memory")
    size = 4 + sum((ne - 1) * nb for ne, nb in zip(tensor.ne, tensor.nb, strict=True))
    memory = (ctypes.c_char * size).from_address(tensor.data)
    shape, strides = tuple(tensor.ne)[::-1], tuple(tensor.nb)[::-1]
    return np.ndarray(shape, np.float32, memory, strides=strides).reshape(-1, shape[-1])


def _function(name: str, result: type | None, *arguments: type) -> Any:
    from llama_cpp._ggml import libggml

    function = libggml[name]  # by index it is an object of its own, so that no declaration meets another
    function.restype, function.argtypes = result, arguments
    return function
