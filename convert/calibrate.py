"""What an importance matrix is to be computed on, a mixture or a text, or a matrix that there is already."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets_cfg.errors import BadInput

from .imatrix import text_sequences
from .imatrix_file import ImportanceMatrix, read_imatrix
from .passages import LENGTH, calibration, conversations, mixture_name

_MATRIX_SUFFIXES = (".gguf", ".dat")
_LEAST_TOKENS = 10
"""Of a conversation; so that a large mixture need not be read whole."""


@dataclass(frozen=True)
class Calibration:
    """Token ids that a matrix is to be computed on, and the name of what they come from."""

    sequences: list[list[int]]
    name: str


def open_calibration(given: Path, tokenizer: Any, *, tokens: int, context: int) -> ImportanceMatrix | Calibration:
    """Read what the user names; nothing is computed yet.

    Args:
        given: a mixture's folder, a file of a matrix (`.gguf`, `.dat`), or any other file as text.
        tokenizer: the checkpoint's; a mixture's conversations are put into its chat template.
        tokens: how many are taken at most.
        context: tokens of the model's context.

    Raises:
        BadInput: there is no such thing, or nothing in it.
    """
    if given.suffix in _MATRIX_SUFFIXES and not given.is_dir():
        return read_imatrix(given)
    if not given.is_dir():
        return Calibration(_text(given, tokenizer, tokens=tokens, chunk=min(LENGTH, context)), given.name)
    if tokenizer.chat_template is None:
        raise BadInput(f"--imatrix {given}: the checkpoint has no chat template for conversations; give a text file")
    rows = conversations(given, "train", most=max(tokens // _LEAST_TOKENS, 1))
    sequences = calibration(rows, tokenizer, tokens=tokens, length=min(LENGTH, context))
    return Calibration(sequences, mixture_name(given))


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
