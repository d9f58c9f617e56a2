"""Compute an importance matrix: run token ids through an unquantized GGUF and sum the squares of the weights' inputs.

The method is that of llama.cpp's tool llama-imatrix. While llama.cpp evaluates, it shows each operation to a callback;
for each product of a weight of a layer with activations, the squares of the activations are summed over the tokens.
Unlike llama-imatrix this counts batches of under 16 tokens too, since a short conversation is as good as a long one;
the cache is in F32 and attention is computed plainly, so that nothing but the weights' own type rounds; and weights
that share their input (q, k and v; gate and up) share one sum.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets_cfg.errors import BadInput

from .child import COMPLAINTS, ChildFailed, follow_log, run_child, serve_parent
from .imatrix_file import CHUNK, ImportanceMatrix, read_imatrix, write_imatrix

if TYPE_CHECKING:
    import numpy as np

_BATCH = 512
"""Tokens that are evaluated at once; bounds the memory for activations and logits."""

_SEQUENCES = 64
"""Short sequences that share a batch at most."""


def text_sequences(ids: Sequence[int], *, chunk: int = CHUNK, bos: int | None = None) -> list[list[int]]:
    """Cut the token ids of a text into chunks for `compute_imatrix`, as llama-imatrix does.

    Args:
        ids: the whole text, tokenized once, with the BOS token that the tokenizer puts before a text.
        chunk: tokens of a sequence.
        bos: the BOS token, if the tokenizer adds one: it replaces the first token of each chunk.

    Returns:
        Sequences of `chunk` ids. What does not fill the last one is left out, unless it is the only one.
    """
    starts = range(0, max(len(ids) - chunk + 1, 1), chunk)
    pieces = [list(ids[start : start + chunk]) for start in starts] if ids else []
    return pieces if bos is None else [[bos, *piece[1:]] for piece in pieces]


def compute_imatrix(
    gguf: Path,
    sequences: Sequence[Sequence[int]],
    *,
    threads: int,
    advance: Callable[[int], None],
    datasets: Sequence[str] = (),
) -> ImportanceMatrix:
    """Evaluate `sequences` and return the importance matrix of the weights of all layers (not of the head's).

    Args:
        gguf: an unquantized GGUF; scratch files are written beside it and removed.
        sequences: token ids; each sequence begins at position 0 and sees nothing of the others.
        threads: CPU threads.
        advance: called with 1 after each sequence.
        datasets: names of what the sequences come from, for the metadata.

    Raises:
        BadInput: there are no tokens, or llama.cpp cannot run the file on them.
        OSError: the disk is full, say.
    """
    sequences = [list(ids) for ids in sequences if len(ids)]
    if not sequences:
        raise BadInput("--imatrix: there are no tokens to compute the importance matrix on; give more text")
    question, answer = gguf.with_suffix(".imatrix.json"), gguf.with_suffix(".imatrix.gguf")
    try:
        question.write_text(json.dumps({"sequences": sequences, "datasets": list(datasets)}), encoding="utf-8")
        request = {"gguf": str(gguf), "question": str(question), "answer": str(answer), "threads": threads}
        try:
            run_child("convert.imatrix", request, lambda _: advance(1))
        except ChildFailed as failure:
            raise BadInput(f"{gguf}: llama.cpp cannot compute its importance matrix: {failure}") from failure
        return read_imatrix(answer)
    finally:
        question.unlink(missing_ok=True)
        answer.unlink(missing_ok=True)


def _work(request: dict, report: Callable[[dict], None]) -> None:
    import numpy as np

    follow_log(lambda level, text: level in COMPLAINTS and text and report({"log": text}))
    question = json.loads(Path(request["question"]).read_text(encoding="utf-8"))
    sequences = question["sequences"]
    sums = _sums(request["gguf"], sequences, request["threads"], lambda: report({"sequence": 1}))
    broken = [name for name, values in sums.items() if not np.isfinite(values).all()]
    if broken:
        raise RuntimeError(f"the inputs of {broken[0]} are not finite")
    tokens = sum(map(len, sequences))
    matrix = ImportanceMatrix(
        {name: values[None] for name, values in sums.items()},
        {name: np.array([tokens]) for name in sums},
        chunks=max(tokens // CHUNK, 1),
        chunk_size=CHUNK,
        datasets=tuple(question["datasets"]),
    )
    write_imatrix(Path(request["answer"]), matrix)


def _sums(gguf: str, sequences: list[list[int]], threads: int, done: Callable[[], None]) -> dict[str, "np.ndarray"]:
    """Evaluate the sequences; return name of a weight → float64 sums of the squares of its inputs."""
    import ctypes

    import llama_cpp

    from .ggml_tensor import check_layout

    check_layout()
    sums: dict[str, np.ndarray] = {}
    twins: dict[str, str] = {}
    inputs: dict[int, str] = {}
    failures: list[Exception] = []
    watch = _watcher(sums, twins, inputs)

    @llama_cpp.ggml_backend_sched_eval_callback
    def callback(address: int, ask: bool, _: Any) -> bool:
        try:
            return watch(address, ask)
        except Exception as error:  # ctypes would print and swallow it
            failures.append(error)
            return False

    llama_cpp.llama_backend_init()
    model_parameters = llama_cpp.llama_model_default_params()
    no_devices = (ctypes.c_void_p * 1)(None)  # activations on a GPU could not be read
    model_parameters.devices = ctypes.addressof(no_devices)
    model_parameters.n_gpu_layers = 0
    model = llama_cpp.llama_model_load_from_file(gguf.encode(), model_parameters)
    if not model:
        raise RuntimeError("it cannot be loaded")
    batches = list(_batches(sequences))
    context = llama_cpp.llama_init_from_model(model, _context_parameters(sequences, batches, threads, callback))
    if not context:
        raise RuntimeError("there is not enough memory for it")
    batch = llama_cpp.llama_batch_init(_BATCH, 0, 1)
    for pieces in batches:
        if pieces[0][1] == 0:
            llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), False)
        _fill(batch, sequences, pieces)
        inputs.clear()
        code = llama_cpp.llama_decode(context, batch)
        if failures:
            raise failures[0]
        if code:
            raise RuntimeError(f"llama_decode returned {code}")
        for sequence, _, end in pieces:
            if end == len(sequences[sequence]):
                done()
    return {**sums, **{name: sums[first] for name, first in twins.items()}}


def _watcher(
    sums: dict[str, "np.ndarray"], twins: dict[str, str], inputs: dict[int, str]
) -> Callable[[int, bool], bool]:
    """The function that llama.cpp asks about each operation, and shows those that it said yes to.

    Args:
        sums: filled with the sums of squares, by the name of the first weight that an input goes into.
        twins: filled with the other weights that the same input goes into, and the name of the first.
        inputs: the inputs of the present evaluation, by address; to be emptied before each.
    """
    import numpy as np

    from .ggml_tensor import Tensor, float_rows, matrix_product

    product = matrix_product()

    def watch(address: int, ask: bool) -> bool:
        tensor = Tensor.from_address(address)
        if tensor.op != product:
            # Behind the last norm is only the head, whose logits nobody reads: False ends the evaluation there.
            return ask and tensor.name == b"result_norm"
        source = tensor.src[1]
        if ask:
            name = Tensor.from_address(tensor.src[0]).name.decode()
            if not (name.startswith("blk.") and name.endswith(".weight")):
                return False
            first = inputs.setdefault(source, name)
            if first != name:
                twins[name] = first
            return first == name
        rows = float_rows(Tensor.from_address(source))
        name = inputs[source]
        squares = np.einsum("ij,ij->j", rows, rows)
        if name in sums:
            sums[name] += squares
        else:
            sums[name] = squares.astype(np.float64)
        return True

    return watch


def _batches(sequences: list[list[int]]) -> Iterator[list[tuple[int, int, int]]]:
    """Yield batches of pieces (sequence, start, end): several short sequences, or the next piece of a long one."""
    batch: list[tuple[int, int, int]] = []
    free = _BATCH
    for index, ids in enumerate(sequences):
        if batch and (len(ids) > free or len(batch) == _SEQUENCES):
            yield batch
            batch, free = [], _BATCH
        if len(ids) > _BATCH:
            yield from ([(index, start, min(start + _BATCH, len(ids)))] for start in range(0, len(ids), _BATCH))
        else:
            batch.append((index, 0, len(ids)))
            free -= len(ids)
    if batch:
        yield batch


def _fill(batch: Any, sequences: list[list[int]], pieces: list[tuple[int, int, int]]) -> None:
    row = 0
    for number, (sequence, start, end) in enumerate(pieces):
        for position in range(start, end):
            batch.token[row] = sequences[sequence][position]
            batch.pos[row] = position
            batch.n_seq_id[row] = 1
            batch.seq_id[row][0] = number
            # The last layer computes only what the logits are wanted for.
            batch.logits[row] = True
            row += 1
    batch.n_tokens = row


def _context_parameters(sequences: list[list[int]], batches: list[list], threads: int, callback: Any) -> Any:
    import llama_cpp

    parameters = llama_cpp.llama_context_default_params()
    parameters.n_ctx = max(_BATCH, max(map(len, sequences)))
    parameters.n_batch = parameters.n_ubatch = _BATCH
    parameters.n_seq_max = max(map(len, batches))
    parameters.n_threads = parameters.n_threads_batch = threads
    parameters.type_k = parameters.type_v = llama_cpp.GGML_TYPE_F32
    parameters.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
    # One cache for all sequences: with one for each, a batch of unequal lengths would be evaluated in slices.
    parameters.kv_unified = True
    parameters.swa_full = True
    parameters.offload_kqv = parameters.op_offload = False
    parameters.cb_eval = callback
    return parameters


if __name__ == "__main__":
    serve_parent(_work)
