"""The importance matrix that the user asks for: from a mixture, from a text, or from a file of one."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from datasets_cfg.errors import BadInput

from .imatrix import compute_imatrix, text_sequences
from .imatrix_file import ImportanceMatrix, read_imatrix
from .passages import LENGTH, calibration, conversations, mixture_name

_MATRIX_SUFFIXES = (".gguf", ".dat")


def importance_matrix(
    given: Path,
    gguf: Path,
    tokenizer: Any,
    *,
    tokens: int,
    context: int,
    threads: int,
    step: Callable[[str, int], AbstractContextManager[Callable[[int], None]]],
) -> ImportanceMatrix:
    """Read or compute the matrix.

    Args:
        given: a mixture's folder, a file of a matrix (`.gguf`, `.dat`), or any other file as text.
        gguf: the unquantized model.
        tokenizer: the checkpoint's; a mixture's conversations are put into its chat template.
        tokens: how many are evaluated at most.
        context: tokens of the model's context.
        threads: CPU threads.
        step: opens a step of the progress.

    Raises:
        BadInput: there is no such thing, or nothing in it.
    """
    if given.suffix in _MATRIX_SUFFIXES and not given.is_dir():
        return read_imatrix(given)
    name = given.name
    if given.is_dir():
        name = mixture_name(given)
        if tokenizer.chat_template is None:
            raise BadInput(
                f"--imatrix {given}: the checkpoint has no chat template for conversations; give a text file"
            )
        rows = conversations(given, "train")
        sequences = calibration(rows, tokenizer, tokens=tokens, length=min(LENGTH, context))
    else:
        sequences = _text(given, tokenizer, tokens=tokens, chunk=min(LENGTH, context))
    with step("importance matrix", len(sequences)) as advance:
        return compute_imatrix(gguf, sequences, threads=threads, advance=advance, datasets=[name])


def _text(given: Path, tokenizer: Any, *, tokens: int, chunk: int) -> list[list[int]]:
    try:
        text = given.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise BadInput(
            f"--imatrix {given}: there is no such mixture or file; name a mixture's folder, a text, or an importance "
            "matrix (.gguf, .dat)"
        ) from None
    except UnicodeDecodeError:
        raise BadInput(f"--imatrix {given} is not text in UTF-8; save it as UTF-8") from None
    ids = tokenizer(text, split_special_tokens=True, verbose=False).input_ids
    adds_bos = tokenizer.bos_token_id is not None and ids[:1] == [tokenizer.bos_token_id]
    return text_sequences(ids[:tokens], chunk=chunk, bos=tokenizer.bos_token_id if adds_bos else None)
